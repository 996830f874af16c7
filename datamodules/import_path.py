"""What a setting names by its import path."""

from importlib import import_module
from typing import Any


def imported(path: str, must_be: str, default_module: str = "") -> Any:
    """What `path` leads to; a name without a module is looked for in `default_module`.

    Raises:
        ValueError: saying what the setting `must_be`, if there is nothing.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module or default_module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{must_be}, got {path!r} ({error}).") from error
