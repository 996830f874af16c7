"""Has a run on CPUs keep the memory that it frees, to use it again.

glibc takes each large tensor's memory from the system and hands it back once it is freed, so that
the system clears every page of it again and again. With images of 84x84 that takes as long as the
arithmetic.
"""

import ctypes
import os

from lightning.pytorch import Callback, LightningModule, Trainer

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # malloc.h
OFF = -1
LARGEST = 32 * 2**20  # bytes; what glibc's own threshold grows to
BY_THE_USER = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> bool:
    """From now on; whether that was possible: with glibc, where the environment does not say how.

    The process then stays as large as it once was, and a little larger than before, by what lies
    unused between the tensors. Processes that it starts by forking do likewise.
    """
    return _set((MMAP_MAX, 0), (TRIM_THRESHOLD, OFF))


def return_freed_memory() -> bool:
    """As glibc does it in a process that had tensors of `LARGEST` bytes and more; at once, too."""
    usual = (MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, 2 * LARGEST), (MMAP_MAX, 65536)
    done = _set(*usual)
    if done:
        ctypes.CDLL(None).malloc_trim(0)
    return done


def _set(*options: tuple[int, int]) -> bool:
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    needed = ("gnu_get_libc_version", "mallopt", "malloc_trim")
    if libc is None or _by_the_user() or not all(hasattr(libc, name) for name in needed):
        return False
    done = [libc.mallopt(option, value) for option, value in options]  # each of them
    return all(done)


def _by_the_user() -> bool:
    names = any(name in os.environ for name in BY_THE_USER)
    return names or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")


class KeepFreedMemory(Callback):
    """While a run on CPUs goes on; of runs within one another, the outermost."""

    runs = 0  # going on in this process

    def __init__(self) -> None:
        super().__init__()
        self._keeps = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep it from here on."""
        if trainer.strategy.root_device.type == "cpu" and not self._keeps:
            self._keeps = True
            KeepFreedMemory.runs += 1
            keep_freed_memory()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Return it."""
        self._end()

    def on_exception(self, *_: object) -> None:
        """After an error Lightning does not call `teardown`."""
        self._end()

    def _end(self) -> None:
        if self._keeps:
            self._keeps = False
            KeepFreedMemory.runs -= 1
            if not KeepFreedMemory.runs:
                return_freed_memory()
