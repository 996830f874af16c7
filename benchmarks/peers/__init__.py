"""Meta-gradients of this package, of a plain loop and of other libraries, on the same tasks.

What is measured is in workloads.py, who takes part in contestants.py; against_peers.py and
memory.py, one folder up, are the programs.
"""
