"""A folder of class folders as an image source: which files there are, and reading them."""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from datamodules.image_reading import ImageSpec, Pixels, read_image

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
SPLIT_NAMES = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
SHOWN = 8  # folders in an error
THREADS = 4  # Pillow decodes outside the interpreter lock

ClassFiles = dict[str, list[Path]]


@dataclass(frozen=True)
class FolderImages:
    """Images in files, class by class; an `ImageSource` of image_cache.py."""

    files: Mapping[str, list[Path]]
    spec: ImageSpec
    title: str

    def identity(self) -> Iterator[str]:
        """Class, name, size and time of every file, in order."""
        yield "files"
        for name, paths in self.files.items():
            yield f"class {name}"
            for path in paths:
                status = path.stat()
                yield f"{path.name} {status.st_size} {status.st_mtime_ns}"

    def open(self) -> tuple[dict[str, int], Callable[[Pixels], None]]:
        """Images per class, and the function that reads them all into ``[images, C, H, W]``."""
        return {name: len(paths) for name, paths in self.files.items()}, self._read_into

    def _read_into(self, images: Pixels) -> None:
        paths = [path for of_class in self.files.values() for path in of_class]

        def read(number: int) -> None:
            images[number] = read_image(paths[number], self.spec)

        pool = ThreadPoolExecutor(THREADS)
        try:
            done = pool.map(read, range(len(paths)))
            for _ in tqdm(done, f"Reading {self.title}", len(paths), unit="image", disable=None):
                pass
        finally:
            pool.shutdown(cancel_futures=True)


def list_classes(folder: Path, depth: int = 1) -> ClassFiles:
    """The image files of each class folder, both sorted by name.

    Hidden folders and files are ignored, so is whatever has no image's file ending. With `depth`
    2 a class is a folder in a folder, named `outer/inner`.

    Raises:
        ValueError: naming the folder if a class has no image, or if there are no classes.
    """
    classes = {"/".join(parts): _images(path) for parts, path in _class_folders(folder, depth)}
    if not classes:
        raise ValueError(f"no class folders in {folder}: expected one folder per class.")
    for name, files in classes.items():
        if not files:
            raise ValueError(f"the class folder {folder / name} holds no images.")
    return dict(sorted(classes.items()))


def none_at(place: Path) -> str:
    """For an error: `place`, which is no folder, and what there is instead."""
    whole = place.absolute()
    if whole.exists():
        return f"{place} ({whole}), which is a file"
    above = next((folder for folder in whole.parents if folder.is_dir()), Path.cwd())
    folders = [entry.name for entry in os.scandir(above) if entry.is_dir()]
    there = ", ".join(sorted(name for name in folders if not name.startswith("."))[:SHOWN])
    return f"{place}, which is not there (folders in {above}: {there or 'none'})"


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders in `folder` that are named after a split and hold class folders, by split."""
    found = {}
    for split, names in SPLIT_NAMES.items():
        places = [folder / name for name in names if (folder / name).is_dir()]
        there = [place for place in places if any(_class_folders(place, depth=1))]
        if there:
            found[split] = there[0]
    return found


def _class_folders(folder: Path, depth: int) -> Iterator[tuple[tuple[str, ...], Path]]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or not entry.is_dir():
            continue
        path = folder / entry.name
        if depth == 1:
            yield (entry.name,), path
        else:
            for inner, below in _class_folders(path, depth - 1):
                yield (entry.name, *inner), below


def _images(folder: Path) -> list[Path]:
    names = sorted(
        entry.name
        for entry in os.scandir(folder)
        if not entry.name.startswith(".") and entry.name.lower().endswith(IMAGE_ENDINGS)
    )
    return [folder / name for name in names]
