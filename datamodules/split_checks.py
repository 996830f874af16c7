"""Do the splits of an image data set share classes or images?"""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np

from datamodules.image_cache import ClassImages

SHOWN = 5  # so many examples in an error


def check_disjoint_names(splits: Mapping[str, Iterable[str]], what: str = "the splits") -> None:
    """Raise ValueError listing the names if two splits have classes of the same name.

    Args:
        what: how the error begins
    """
    for (first, names), (second, others) in combinations(splits.items(), 2):
        shared = sorted(set(names) & set(others))
        if shared:
            raise ValueError(
                f"{what} {first} and {second} must have different classes, "
                f"both have {', '.join(shared)}."
            )


def check_disjoint_images(
    splits: Mapping[str, ClassImages],
    allowed: Mapping[tuple[str, str], int] | None = None,
) -> None:
    """Raise ValueError if the same picture (equal pixels) is in two splits.

    Args:
        allowed: how many pictures two classes of different splits may share, by their names
    """
    for (first, images), (second, others) in combinations(splits.items(), 2):
        pairs = _shared_pairs(images, others)
        counts = Counter((a, b) for a, b, _ in pairs)
        refused = [
            (a, b, place) for a, b, place in pairs if counts[a, b] > (allowed or {}).get((a, b), 0)
        ]
        if refused:
            examples = "; ".join(
                f"image {place} of {a!r} in {first} is also in {b!r} in {second}"
                for a, b, place in refused[:SHOWN]
            )
            raise ValueError(
                f"the splits {first} and {second} must not share pictures, "
                f"got {len(refused)} (counting from 0 in each class): {examples}."
            )


def _shared_pairs(images: ClassImages, others: ClassImages) -> list[tuple[str, str, int]]:
    """Class here, class there, and number in its class here, of each picture in both."""
    shared = np.intersect1d(images.digests, others.digests)
    if not len(shared):
        return []
    there: dict[int, set[str]] = {}
    for number in np.flatnonzero(np.isin(others.digests, shared)).tolist():
        there.setdefault(int(others.digests[number]), set()).add(others.class_of(number))
    pairs = []
    starts = dict(zip(images.names, images.starts.tolist(), strict=True))
    for number in np.flatnonzero(np.isin(images.digests, shared)).tolist():
        name = images.class_of(number)
        pairs += [
            (name, other, number - starts[name])
            for other in sorted(there[int(images.digests[number])])
        ]
    return pairs
