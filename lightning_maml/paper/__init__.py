"""The paper's figures and tables from result files: `python -m lightning_maml.paper --help`.

Reads what `test` wrote; trains nothing.
"""
