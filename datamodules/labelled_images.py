"""Data sets whose items are (image, class number), as torchvision's are, as an image source."""

import inspect
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from datamodules.download import unpacking_stays_within
from datamodules.image_reading import ImageSpec, Pixels, to_pixels
from datamodules.import_path import imported
from datamodules.sampling import Integers

SAMPLE = 16  # images of a part that say whether it is another one
LABELS = ("targets", "_labels", "labels")  # where torchvision's data sets keep them


@dataclass(frozen=True)
class LabelledImages:
    """The images of some classes, class by class; an `ImageSource` of image_cache.py.

    Attributes:
        parts: the data sets, whose images are put together
        origin: what they were made from
        classes: names and numbers of the classes
    """

    parts: Sequence[Any]
    origin: Sequence[str]
    classes: Mapping[str, int]
    spec: ImageSpec
    title: str

    def identity(self) -> Iterator[str]:
        """Classes; class, arguments, length and a sample of the images of each part.

        Not all images: reading them is what the cache is to save.
        """
        yield from ("labelled", *self.origin)
        for part in self.parts:
            sample = np.linspace(0, len(part) - 1, SAMPLE).astype(int) if len(part) else ()
            yield f"{len(part)} images, of which {sha256(_bytes(part, sample)).hexdigest()}"
        yield from (f"class {number} {name}" for name, number in self.classes.items())

    def open(self) -> tuple[dict[str, int], Callable[[Pixels], None]]:
        """Images per class, and the function that reads them all into ``[images, C, H, W]``."""
        labels = [labels_of(part) for part in self.parts]
        places = {
            name: [
                (part, int(i))
                for part, of_part in zip(self.parts, labels, strict=True)
                for i in np.flatnonzero(of_part == number)
            ]
            for name, number in self.classes.items()
        }
        in_order = [place for of_class in places.values() for place in of_class]

        def read_into(images: Pixels) -> None:
            shown = tqdm(in_order, f"Reading {self.title}", unit="image", disable=None)
            for number, (part, i) in enumerate(shown):
                images[number] = _pixels(part[i][0], part, i, self.spec)

        return {name: len(of_class) for name, of_class in places.items()}, read_into


def make_part(path: str, root: Path, arguments: Mapping[str, Any], download: bool) -> Any:
    """The data set of class `path` with these arguments, and with `root` if it takes one.

    Raises:
        FileNotFoundError: saying where, if its files are not there.
        ValueError: naming the setting, if there is no such class, or it does not take them.
    """
    kind = _class_at(path)
    takes = inspect.signature(kind).parameters
    if download and "download" not in takes:
        raise ValueError(f"`download` must be false, {path} cannot download.")
    given = dict(arguments) | ({"root": str(root)} if "root" in takes else {})
    try:
        inspect.signature(kind).bind(**given)
    except TypeError as error:
        raise ValueError(
            f"`parts` must be arguments of {path}, {', '.join(takes)}, got {dict(arguments)} "
            f"({error})."
        ) from error
    try:
        if not download:
            return kind(**given)
        with unpacking_stays_within():
            return kind(**given, download=True)
    except (OSError, RuntimeError, EOFError, tarfile.TarError) as error:
        hint = "" if download or "download" not in takes else " `download: true` fetches it."
        reason = str(error).partition("\n")[0]
        raise FileNotFoundError(
            f"no {path} under `root` = {root} ({root.absolute()}): {reason}{hint}"
        ) from error


def origin_of(path: str, arguments: Mapping[str, Any]) -> str:
    """Class and arguments as one word."""
    return json.dumps([path, dict(arguments)], sort_keys=True, default=str)


def classes_of(parts: Sequence[Any]) -> dict[str, int]:
    """Names and numbers of the classes: the first part's `classes`, else the numbers that come.

    Raises:
        ValueError: if two classes have the same name.
    """
    names = getattr(parts[0], "classes", None)
    if names is None:
        numbers = sorted({int(label) for part in parts for label in labels_of(part)})
        return {str(number): number for number in numbers}
    several = [name if isinstance(name, str) else ", ".join(name) for name in names]
    classes = {name: number for number, name in enumerate(several)}
    if len(classes) < len(several):
        twice = sorted({name for name in several if several.count(name) > 1})
        raise ValueError(f"`dataset` must have classes of different names, got twice {twice}.")
    return classes


def labels_of(part: Any) -> Integers:
    """The class number of each item, ``[items]``; without a list of them, all items are read.

    Raises:
        ValueError: if they are no integers.
    """
    there = (getattr(part, name, None) for name in LABELS)
    listed = next((labels for labels in there if labels is not None), None)
    labels = np.asarray([part[i][1] for i in range(len(part))] if listed is None else listed)
    if labels.shape != (len(part),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"`dataset` must give each image one class number, got {labels.dtype} "
            f"{list(labels.shape)} for the {len(part)} images of {type(part).__name__}."
        )
    return labels.astype(np.int64)


def _bytes(part: Any, items: Iterable[int]) -> bytes:
    return b"".join(np.asarray(part[int(i)][0]).tobytes() for i in items)


def _pixels(image: object, part: Any, number: int, spec: ImageSpec) -> Pixels:
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"`dataset` must give PIL images (without `transform`), got {type(image).__name__} "
            f"from {type(part).__name__}."
        )
    try:
        return to_pixels(image, spec)
    except ValueError as error:
        raise ValueError(f"image {number} of {type(part).__name__}: {error}") from error


def _class_at(path: str) -> Any:
    """A class by its import path, or by its name in `torchvision.datasets`."""
    must_be = (
        "`dataset` must be a class of torchvision.datasets, such as CIFAR100, or an import path"
    )
    found = imported(path, must_be, "torchvision.datasets")
    if not inspect.isclass(found):
        raise ValueError(f"`dataset` must be a class, got {path!r}, {found!r}.")
    return found
