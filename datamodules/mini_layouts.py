"""mini-ImageNet in the three forms people have it in, each as one image source per split."""

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from datamodules.array_pickle import load_arrays
from datamodules.class_folders import SPLIT_NAMES, ClassFiles, FolderImages, list_classes
from datamodules.image_cache import ImageSource
from datamodules.image_reading import ImageSpec, Pixels, to_pixels
from datamodules.sampling import SPLITS, Integers
from datamodules.split_checks import check_disjoint_names

SPEC = ImageSpec(size=84, channels=3)
PLACES = (".", "mini-imagenet", "mini_imagenet", "miniimagenet", "miniImageNet", "MiniImagenet")


@dataclass(frozen=True)
class PickledImages:
    """A mini-imagenet-cache-*.pkl file; an `ImageSource` of image_cache.py."""

    path: Path
    title: str
    spec: ImageSpec = SPEC

    def identity(self) -> Iterator[str]:
        """Name, size and time of the file."""
        status = self.path.stat()
        yield from ("pickle", self.path.name, str(status.st_size), str(status.st_mtime_ns))

    def open(self) -> tuple[dict[str, int], Callable[[Pixels], None]]:
        """Images per class, and the function that copies them all into ``[images, C, H, W]``.

        Raises:
            ValueError: naming the file, if it holds anything but images and their classes.
        """
        images, classes = _images_and_classes(load_arrays(self.path), self.path)

        def fill(out: Pixels) -> None:
            first = 0
            for numbers in tqdm(
                classes.values(), f"Reading {self.title}", unit="class", disable=None
            ):
                out[first : first + len(numbers)] = _as_spec(images[numbers], self.spec)
                first += len(numbers)

        return {name: len(numbers) for name, numbers in classes.items()}, fill


def find_layout(root: Path) -> tuple[Path, dict[str, ImageSource]] | None:
    """The first folder under `root` with the data in some form, and a source per split.

    Raises:
        ValueError: if what is found is not right, e.g. a class without images.
    """
    for folder in (root / place for place in PLACES):
        for layout in (_class_folders, _csv_files, _pickles):
            sources = layout(folder)
            if sources is not None:
                return folder, sources
    return None


def _class_folders(folder: Path) -> dict[str, ImageSource] | None:
    places = _first_existing(folder, "{}", Path.is_dir)
    return (
        None
        if places is None
        else _file_sources({split: list_classes(place) for split, place in places.items()})
    )


def _csv_files(folder: Path) -> dict[str, ImageSource] | None:
    tables = _first_existing(folder, "{}.csv", Path.is_file)
    images = folder / "images"
    if tables is None or not images.is_dir():
        return None
    there = {entry.name for entry in os.scandir(images)}
    return _file_sources(
        {split: _read_table(table, images, there) for split, table in tables.items()}
    )


def _pickles(folder: Path) -> dict[str, ImageSource] | None:
    paths = _first_existing(folder, "mini-imagenet-cache-{}.pkl", Path.is_file)
    if paths is None:
        return None
    return {split: PickledImages(path, f"mini-imagenet-{split}") for split, path in paths.items()}


def _file_sources(splits: dict[str, ClassFiles]) -> dict[str, ImageSource]:
    check_disjoint_names(splits)  # now, not after a minute of reading
    return {
        split: FolderImages(files, SPEC, f"mini-imagenet-{split}")
        for split, files in splits.items()
    }


def _first_existing(
    folder: Path, pattern: str, exists: Callable[[Path], bool]
) -> dict[str, Path] | None:
    """For each split the first spelling that exists, or None if a split has none."""
    found = {}
    for split in SPLITS:
        paths = [folder / pattern.format(name) for name in SPLIT_NAMES[split]]
        there = [path for path in paths if exists(path)]
        if not there:
            return None
        found[split] = there[0]
    return found


def _read_table(table: Path, images: Path, there: set[str]) -> ClassFiles:
    """The classes of a table with the columns `filename` and `label` (Ravi & Larochelle)."""
    classes: ClassFiles = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            name, label = row.get("filename"), row.get("label")
            if not name or not label:
                raise ValueError(f"{table} must have the columns filename and label, got {row}.")
            if name not in there:
                raise ValueError(f"{table} names {name}, which is not in {images}.")
            classes.setdefault(label, []).append(images / name)
    if not classes:
        raise ValueError(f"{table} names no images.")
    return {label: sorted(files) for label, files in sorted(classes.items())}


def _images_and_classes(content: Any, path: Path) -> tuple[Pixels, dict[str, Integers]]:
    """The images ``[N, H, W, 3]``, and the numbers of those of each class."""
    content = _text_keys(content) if isinstance(content, dict) else {}
    images, classes = content.get("image_data"), content.get("class_dict")
    if not isinstance(images, np.ndarray) or not isinstance(classes, dict):
        raise ValueError(f"{path} must hold `image_data` and `class_dict`, got {list(content)}.")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            f"`image_data` of {path} must be [images, height, width, 3] uint8, "
            f"got {list(images.shape)} {images.dtype}."
        )
    by_name = {
        name: np.array(list(numbers), dtype=np.int64)
        for name, numbers in sorted(_text_keys(classes).items())
    }
    numbers = np.concatenate([np.empty(0, np.int64), *by_name.values()])
    once = np.unique(numbers)
    inside = len(once) > 0 and once[0] >= 0 and once[-1] < len(images)
    if not inside or len(once) < len(numbers) or not all(map(len, by_name.values())):
        raise ValueError(
            f"`class_dict` of {path} must give each class some of the {len(images)} images, "
            "and none to two classes."
        )
    return images, by_name


def _text_keys(content: dict[Any, Any]) -> dict[str, Any]:
    return {k.decode() if isinstance(k, bytes) else str(k): v for k, v in content.items()}


def _as_spec(images: Pixels, spec: ImageSpec) -> Pixels:
    """``[images, height, width, 3]`` as ``[images, *spec.shape]``."""
    if images.shape[1:3] == (spec.size, spec.size):
        return images.transpose(0, 3, 1, 2)
    return np.stack([to_pixels(Image.fromarray(image), spec) for image in images])
