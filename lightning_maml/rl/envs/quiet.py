"""MuJoCo without its warnings: those of our steps are counted as broken episodes instead."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning_maml.rl.envs.extra import rl_extra

with rl_extra():
    import mujoco

Handler = Callable[[str], None]

_lock = threading.Lock()
_inside = 0
_before: Handler | None = None


def _ignore(message: str) -> None:
    """A handler of MuJoCo's warnings."""


@contextmanager
def without_warnings() -> Iterator[None]:
    """Drop MuJoCo's warnings meanwhile; else it prints each, and writes it to ``MUJOCO_LOG.TXT`` in
    the working folder.

    MuJoCo has one handler for all threads. The first thread to come in sets ours, the last to leave
    puts back whatever was there.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = mujoco.get_mju_user_warning()
            mujoco.set_mju_user_warning(_ignore)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                mujoco.set_mju_user_warning(_before)
