"""A search for settings that end in anything but a result or one line that names them.

targets.py says what is searched, values.py what is drawn, test_search.py what must come of it.
"""
