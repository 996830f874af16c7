"""Names the nearest setting, or class, where one is misspelt."""

import inspect
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import nn

OF_CLASS = re.compile(r"class_path '([\w.]+)': Option '([\w.]+)' is not accepted")
NO_CLASS = re.compile(r"Expected a dot import path string: (\w+)")
NO_COMMAND = re.compile(r'expected "subcommand" to be one of \{(.*)\}, but it was not provided')
OF_COMMAND = re.compile(r"(?:unrecognized arguments: --|does not accept option ')([\w.]+)")


def with_suggestion(message: str, known: Iterable[str]) -> str:
    """A message of jsonargparse, with the setting or class that was meant, if one comes close.

    Where no command is given, it names all.

    `known` are the names of the command's settings; those of a class are looked up. Where they
    cannot be found (a class in a class, one without a signature), the message stays as it is.

    >>> with_suggestion("unrecognized arguments: --trainer.max_stepss 3", ["trainer.max_steps"])
    'unrecognized arguments: --trainer.max_stepss 3; did you mean `trainer.max_steps`?'
    >>> with_suggestion("class_path 'torch.nn.Module.T': Option 'out' is not accepted", [])
    "class_path 'torch.nn.Module.T': Option 'out' is not accepted"
    >>> with_suggestion("class_path 'builtins.type': Option 'nme' is not accepted", [])
    "class_path 'builtins.type': Option 'nme' is not accepted"
    """
    if found := NO_COMMAND.search(message):
        return f"say what to do: one of {found[1].replace(',', ', ')}; see --help"
    if found := OF_CLASS.search(message):
        path, given = found.groups()
        return _with_nearest(message, given, _settings(path))
    if found := NO_CLASS.search(message):
        classes = (c.__name__ for base in (LightningDataModule, nn.Module) for c in _below(base))
        return _with_nearest(message, found[1], classes)
    if found := OF_COMMAND.search(message):
        return _with_nearest(message, found[1], known)
    return message


def option_names(parser: Any) -> Iterator[str]:
    """Of a parser and its subcommands."""
    for action in parser._actions:
        yield action.dest
        for below in (getattr(action, "_name_parser_map", None) or {}).values():
            yield from option_names(below)


def _below(base: type) -> Iterator[type]:
    """The classes made from `base` so far, and those made from them."""
    made: type
    for made in base.__subclasses__():
        yield made
        yield from _below(made)


def _with_nearest(message: str, given: str, known: Iterable[str]) -> str:
    nearest = get_close_matches(given, set(known), n=1, cutoff=0.75)
    return f"{message}; did you mean `{nearest[0]}`?" if nearest else message


def _settings(path: str) -> list[str]:
    module, _, name = path.rpartition(".")
    try:
        made = getattr(import_module(module), name)
        return list(inspect.signature(made).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
