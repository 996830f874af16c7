"""One thread at a time in Python, where environments act side by side.

Each numpy and torch call lets another thread have the interpreter for some microseconds, and waits
to get it back. It is faster to keep it until the physics runs.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()
_here = threading.local()


@contextmanager
def taken() -> Iterator[None]:
    """Wait for this thread's turn, and keep it but for what is done in `given_up`."""
    if getattr(_here, "mine", False):
        yield
        return
    with _LOCK:
        _here.mine = True
        try:
            yield
        finally:
            _here.mine = False


@contextmanager
def given_up() -> Iterator[None]:
    """Let others have the turn meanwhile; nothing where this thread does not have it."""
    if not getattr(_here, "mine", False):
        yield
        return
    _here.mine = False
    _LOCK.release()
    try:
        yield
    finally:
        _LOCK.acquire()
        _here.mine = True
