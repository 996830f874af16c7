"""What the command line says: log messages as lines, the user's errors as one line."""

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

SPEAKS_TO_USERS = ("lightning_maml", "datamodules", "lightning")
USER_ERRORS = (ValueError, FileNotFoundError, FloatingPointError, MisconfigurationException)
NOT_FOR_USERS = (
    ".*does not have many workers.*",  # the loaders gather from memory, workers only cost
    ".*LeafSpec.*is deprecated.*",  # Lightning's own use of torch
)


def debugging() -> bool:
    """Whether errors are to be shown with their traceback: JSONARGPARSE_DEBUG is set."""
    return bool(os.environ.get("JSONARGPARSE_DEBUG"))


@contextmanager
def readable_output(loggers: Sequence[str]) -> Iterator[None]:
    """Inside, the INFO messages of `loggers` are lines on stderr, errors of users end in one.

    Messages come from the first process only. An error is the user's if one of
    `SPEAKS_TO_USERS` raised it, in so many words; any other, a bug or the fault of a user's
    own model, keeps its traceback, and so do all with JSONARGPARSE_DEBUG=1.
    """
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: rank_zero_only.rank == 0)
    for name in loggers:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    except USER_ERRORS as error:
        if debugging() or _raised_in(error) not in SPEAKS_TO_USERS:
            raise
        fail(str(error))
    finally:
        for name in loggers:
            logging.getLogger(name).removeHandler(handler)


def fail(message: str) -> None:
    """End the program with one line."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    raise SystemExit(2)


def _raised_in(error: BaseException) -> str:
    """Name of the top-level package that raised `error`."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
