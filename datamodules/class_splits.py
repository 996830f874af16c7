"""Which classes are for training, validation and test: so many of a fixed shuffle, or by name."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from datamodules.sampling import SPLITS, check_seed, choose_distinct, uniforms
from datamodules.split_checks import check_disjoint_names

FRACTIONS = (0.64, 0.16, 0.2)  # those of mini-ImageNet
ROUNDING = 1e-9  # fractions may sum to so much more than 1
SHOWN = 5  # so many names in an error

Content = TypeVar("Content")  # what is known of a class, e.g. its files


def split_by_sizes(
    classes: Mapping[str, Content], sizes: Sequence[int], seed: int
) -> dict[str, dict[str, Content]]:
    """Consecutive parts of one shuffle of the sorted names, of given sizes, each sorted by name.

    The order in which the classes come does not matter.
    """
    names = sorted(classes)
    assert sum(sizes) <= len(names)
    shuffle = choose_distinct(uniforms(seed, "train", 0, 1, len(names)), len(names))[0]
    splits: dict[str, dict[str, Content]] = {}
    first = 0
    for split, size in zip(SPLITS, sizes, strict=True):
        chosen = sorted(names[i] for i in shuffle[first : first + size])
        splits[split] = {name: classes[name] for name in chosen}
        first += size
    return splits


def sizes_of(fractions: Sequence[float], classes: int) -> list[int]:
    """How many of so many classes each fraction is. Sums are rounded: what sums to 1 takes all.

    >>> sizes_of((0.64, 0.16, 0.2), 12)
    [8, 2, 2]
    """
    sizes: list[int] = []
    total = 0.0
    for fraction in fractions:
        total += fraction
        end = min(classes, math.floor(total * classes + 0.5))
        sizes.append(end - sum(sizes))
    return sizes


@dataclass(frozen=True)
class ClassSplit:
    """How the classes of a folder are split.

    Attributes:
        fractions: of the classes, for training, validation and test; None for `FRACTIONS`
        classes: instead, the names of the classes of the splits `train`, `val` and `test`
        split_seed: of the shuffle that the fractions are parts of

    Raises:
        ValueError: naming the setting that is out of range, or the classes in two lists.
    """

    fractions: Sequence[float] | None = None
    classes: Mapping[str, Sequence[str]] | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.split_seed, "split_seed")
        if self.fractions is not None and self.classes is not None:
            raise ValueError("`fractions` must not be given where `classes` is.")
        if self.fractions is not None:
            _check_fractions(self.fractions)
        if self.classes is not None:
            _check_lists(self.classes)

    @property
    def given(self) -> str | None:
        """The setting that asks for a split."""
        both = {"fractions": self.fractions, "classes": self.classes}
        return next((name for name, value in both.items() if value is not None), None)

    def __call__(self, files: Mapping[str, Content]) -> dict[str, dict[str, Content]]:
        """The classes of each split that is to have some.

        Raises:
            ValueError: if `classes` names one that is not there.
        """
        if self.classes is not None:
            return _by_lists(files, self.classes)
        fractions = self.fractions or FRACTIONS
        splits = split_by_sizes(files, sizes_of(fractions, len(files)), self.split_seed)
        return {
            split: splits[split]
            for split, fraction in zip(SPLITS, fractions, strict=True)
            if fraction > 0
        }


def _check_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) != len(SPLITS) or not all(fraction >= 0 for fraction in fractions):
        raise ValueError(
            "`fractions` must be three numbers of at least 0 (train, val, test), "
            f"got {fractions!r}."
        )
    if not 0 < sum(fractions) <= 1 + ROUNDING:
        raise ValueError(
            "`fractions` must sum to more than 0 and at most 1, "
            f"got {' + '.join(map(str, fractions))} = {sum(fractions):g}."
        )


def _check_lists(classes: Mapping[str, Sequence[str]]) -> None:
    if not set(classes) <= set(SPLITS) or not any(classes.values()):
        raise ValueError(
            f"`classes` must list names for some of {', '.join(SPLITS)}, got {dict(classes)!r}."
        )
    check_disjoint_names(classes, "`classes`: the splits")


def _by_lists(
    files: Mapping[str, Content], classes: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Content]]:
    unknown = sorted({name for names in classes.values() for name in names} - set(files))
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise ValueError(
            f"`classes` must name classes that are there, {len(files)} like {min(files)!r}, "
            f"got {', '.join(map(repr, unknown[:SHOWN]))}{more}."
        )
    return {
        split: {name: files[name] for name in sorted(set(classes[split]))}
        for split in SPLITS
        if classes.get(split)
    }
