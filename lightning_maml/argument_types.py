"""Arguments against their type hints: what is of another kind is refused by name, at once."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from torch import Tensor

WORDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
PLURAL = {int: "integers", float: "numbers", str: "strings"}
SHOWN = 60  # so many characters of what was given
_hints = cache(get_type_hints)


def check_types(takes: Callable[..., object], given: Mapping[str, Any]) -> None:
    """Check values by name against the type hints of a function, or of a dataclass's fields.

    Numbers are not booleans, integers have 64 bits, and a string is no list. A path is a string;
    arrays and tensors are what their `tolist` gives. How long a list is, is not looked at.

    Raises:
        ValueError: naming the first value that is of another kind.

    >>> def f(steps: int, rates: Sequence[float] | None): ...
    >>> check_types(f, {"steps": 1, "rates": "0.1"})
    Traceback (most recent call last):
    ...
    ValueError: `rates` must be a list of numbers or None, got '0.1'.
    """
    for name, hint in _hints(takes).items():
        if name in given and not fits(given[name], hint):
            raise ValueError(f"`{name}` must be {_words(hint)}, got {_shown(given[name])}.")


def check_counts(**given: tuple[Any, int]) -> None:
    """Raise ValueError unless each value, by name, is None or an integer as large as its least."""
    for name, (value, least) in given.items():
        if value is not None and (not fits(value, int) or value < least):
            raise ValueError(f"`{name}` must be an integer >= {least}, got {value}.")


def check_shares(**given: float) -> None:
    """Raise ValueError unless each value, by name, is between 0 and 1."""
    for name, value in given.items():
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` must be between 0 and 1, got {value}.")


def check_positive(**given: float) -> None:
    """Raise ValueError unless each value, by name, is a finite number above 0."""
    for name, value in given.items():
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be a finite number > 0, got {value}.")


def fits(value: Any, hint: Any) -> bool:
    """Is the value of the kind that the type hint says?"""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(fits(value, one) for one in inner)
    if kind is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if kind in (int, float):
        return _is_number(value, kind)
    if kind in (tuple, list, Sequence):
        return _is_list(value, inner)
    if kind in (dict, Mapping):
        known = inner or (Any, Any)
        return isinstance(value, Mapping) and all(
            fits(part, one) for item in value.items() for part, one in zip(item, known, strict=True)
        )
    if kind is str:
        return isinstance(value, str | PathLike)
    return kind is Any or isinstance(value, kind)


def _is_number(value: Any, kind: type) -> bool:
    value = _plain(value)
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, Integral) and abs(int(value)) < 2**64
    return isinstance(value, Real) and not (isinstance(value, int) and abs(value) >= 2**64)


def _is_list(value: Any, inner: tuple[Any, ...]) -> bool:
    value = _plain(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return False
    return all(fits(one, inner[0]) for one in value)  # the parts of our tuples are of one kind


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic | Tensor) else value


def _words(hint: Any) -> str:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_words, inner)))
    if kind is Literal:
        return f"one of {list(inner)}"
    if kind in (tuple, list, Sequence):
        return " of ".join(["a list", *filter(None, [PLURAL.get(inner[0])])])
    if kind in (dict, Mapping):
        return "a mapping"
    if kind is NoneType:
        return "None"
    if kind is Callable:
        return "a function"
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    return WORDS.get(kind, f"{article} {kind.__name__}")


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 2**64:
        return f"{value}, of more than 64 bits"
    text = repr(value)
    return type(value).__name__ if len(text) > SHOWN or "\n" in text else text
