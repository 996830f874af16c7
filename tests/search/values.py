"""What is drawn as a setting: values of every kind, right and wrong, none of which costs much."""

import math
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

LARGE = [10**6, 2**63 - 1]
"""Right numbers, but of more than can be tried: what takes them is made and not used."""
SMALL = 40
INTEGERS = st.integers(-3, SMALL) | st.sampled_from([2**64, -(2**64), 10**30])
FLOATS = st.floats(-3, 3) | st.sampled_from(
    [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e300, -1e300, 1e-300, 0.5, 1.0]
)
WORDS = st.sampled_from(
    ["", "x", "3", "0.1", "auto", "none", "*", "layers.*", "[", "no/such", "no.such.thing", "ä",
     "torch.nn.functional.mse_loss", "torch.nn.Linear", "os.path", "mse", "accuracy"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | WORDS
LISTS = (
    st.lists(INTEGERS, max_size=4) | st.lists(FLOATS, max_size=4) | st.lists(SCALARS, max_size=3)
)
NESTED = st.lists(LISTS, max_size=3)
KEYS = st.sampled_from(
    ["crop", "flip", "color", "same_for_class", "train", "val", "class_path", "init_args", "x"]
)  # fmt: skip
MAPPINGS = st.dictionaries(KEYS | SCALARS, SCALARS | LISTS, max_size=2)
OBJECTS = st.sampled_from(
    [object(), b"x", 1j, {1}, len, nn.Identity, nn.Identity(), nn.Linear(1, 1), torch.zeros(2),
     torch.tensor(0.5), np.array([0.1, 0.2]), np.float32(0.5), np.int64(2), range(2), (1, 2)]
)  # fmt: skip
ANYTHING = st.one_of(SCALARS, LISTS, NESTED, MAPPINGS, OBJECTS)


def right_kind(hint: Any) -> st.SearchStrategy[Any]:
    """Values of the kind that a type hint says, in range or not; of what it cannot say, none."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return st.one_of(*map(right_kind, inner))
    if kind is Literal:
        return st.sampled_from(inner)
    if kind is tuple and inner[-1] is not Ellipsis:
        return st.tuples(*map(right_kind, inner))
    if kind in (tuple, list, Sequence):
        return st.lists(right_kind(inner[0]), max_size=4)
    known = {int: INTEGERS, float: FLOATS, bool: st.booleans(), str: WORDS, dict: MAPPINGS}
    return known.get(kind, st.none() if kind is NoneType else st.nothing())


def _else_anything(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return ANYTHING if strategy.is_empty else strategy


def is_large(value: Any) -> bool:
    """Is it one of `LARGE`?"""
    return isinstance(value, int) and value in LARGE


def settings(hints: Mapping[str, Any], large: bool) -> st.SearchStrategy[dict[str, Any]]:
    """One to three settings by name: half of them of the right kind, half of any."""
    more = st.sampled_from(LARGE) if large else st.nothing()
    # `|` would flatten: each of the many kinds of anything would come as often as the right one.
    one = {
        name: st.booleans().flatmap(
            lambda right, hint=hint: _else_anything(right_kind(hint)) if right else more | ANYTHING
        )
        for name, hint in hints.items()
    }
    names = st.lists(st.sampled_from(sorted(one)), min_size=1, max_size=3, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({n: one[n] for n in chosen}))
