"""What the command line says: log messages as lines, the user's errors as one line."""

import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only

SPEAKS_TO_USERS = ("lightning_maml", "datamodules", "lightning")
USER_ERRORS = (ValueError, OSError, FloatingPointError, MisconfigurationException)
NESTED = "Given value: NestedArg("
MAX_GIVEN = 100  # characters of a wrong value that are repeated; the settings of a class have more
NOT_FOR_USERS = (
    ".*does not have many workers.*",  # the loaders gather from memory, workers only cost
    ".*LeafSpec.*is deprecated.*",  # Lightning's own use of torch
)
ADVERTISEMENT = "💡 Tip: For seamless cloud"  # of two paid services, at the start of every run


def debugging() -> bool:
    """Whether errors are to be shown with their traceback: JSONARGPARSE_DEBUG is true."""
    return os.environ.get("JSONARGPARSE_DEBUG", "false").lower() not in ("false", "no", "off", "")


@contextmanager
def readable_output(loggers: Sequence[str]) -> Iterator[None]:
    """Inside, the INFO messages of `loggers` are lines on stderr, errors of users end in one.

    Messages come from the first process only. An error is the user's if one of
    `SPEAKS_TO_USERS` raised it, in so many words, itself or as the cause of what came out; any
    other, a bug or the fault of a user's own model, keeps its traceback, and so do all with
    JSONARGPARSE_DEBUG=true.
    """
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message=message)
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: rank_zero_only.rank == 0)  # type: ignore[attr-defined]
    for name in loggers:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    of_lightning = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    of_lightning.addFilter(_is_no_advertisement)
    try:
        yield
    except Exception as error:
        said = _for_users(error)
        if debugging() or said is None:
            raise
        fail(said)
    finally:
        of_lightning.removeFilter(_is_no_advertisement)
        for name in loggers:
            logging.getLogger(name).removeHandler(handler)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(ADVERTISEMENT)


def fail(message: str) -> NoReturn:
    """End the program with one line."""
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    raise SystemExit(2)


def without_boilerplate(message: str) -> str:
    """A message of jsonargparse without what it says of types that may be None.

    Of a flag for a setting within a setting it names each level; the last is the whole.

    >>> given = "Given value: NestedArg(key={!r}, val='two')"
    >>> lines = ["Expected a <class 'int'>", given.format("x"), given.format("rule.x")]
    >>> without_boilerplate("\\n".join(lines))
    "Expected a <class 'int'>; given: rule.x = 'two'"
    """
    boilerplate = (
        "Does not validate",
        "Subtypes:",
        "Errors:",
        "- Expected a <class 'None",
        "Given value type",
    )
    lines = [line.strip() for line in message.splitlines()]
    kept = (line for line in lines if not line.startswith((*boilerplate, NESTED)))
    said = " ".join(line for line in kept if len(line) < MAX_GIVEN or not line.startswith("Given"))
    nested = [line for line in lines if line.startswith(NESTED) and len(line) < MAX_GIVEN]
    for key, value in re.findall(r"key='(.*?)', val=(.*)\)", "".join(nested[-1:])):
        said += f"; given: {key} = {value}"
    return said


def _for_users(error: BaseException | None) -> str | None:
    """The message of the first error in the chain of causes that is meant for users."""
    while error is not None:
        if isinstance(error, USER_ERRORS) and _raised_in(error) in SPEAKS_TO_USERS:
            return str(error)
        error = error.__cause__
    return None


def _raised_in(error: BaseException) -> str:
    """Name of the top-level package that raised `error`."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
