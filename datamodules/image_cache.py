"""The images of a split as one uint8 tensor, memory-mapped from a file made at the first read.

The file is a header, the pixels and a 64-bit digest of each image. It carries a key, a hash of
what it was made from; a file with another key, length or beginning is made anew. It is written
beside its final place and moved there when complete, so a file by that name is never half done.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, SupportsIndex

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.image_reading import ImageSpec, Pixels
from datamodules.sampling import Integers

VERSION = 2  # raise it when the pixels made from the same files change
MAGIC = b"LMAML-IM"
ALIGNMENT = 4096
CACHE_FOLDER = ".lightning_maml"

Digests = npt.NDArray[np.uint64]


class ImageSource(Protocol):
    """Where the images of a split come from."""

    @property
    def title(self) -> str:
        """Data set and split, for the file's name and the progress bar."""

    @property
    def spec(self) -> ImageSpec:
        """What the images become."""

    def identity(self) -> Iterable[str]:
        """Words that change whenever the images may have changed."""

    def open(self) -> tuple[dict[str, int], Callable[[Pixels], None]]:
        """Images per class, and a function that fills ``[images, C, H, W]`` class by class."""


@dataclass(frozen=True)
class ClassImages:
    """The images of a split, class after class.

    Shapes:
        images: ``[images, C, H, W]`` uint8
        counts: ``[classes]``, images per class
        digests: ``[images]``, equal for images with equal pixels
    """

    images: Tensor
    names: tuple[str, ...]
    counts: Integers
    digests: Digests
    cache: tuple[Path, str] | None = None  # the file and its key, if the images are in one

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """A worker process that is handed these images maps the file itself."""
        return super().__reduce_ex__(protocol) if self.cache is None else (_open, self.cache)

    @property
    def starts(self) -> Integers:
        """Number of each class's first image, ``[classes]``."""
        return np.cumsum(self.counts) - self.counts

    def class_of(self, image: int) -> str:
        """The name of the class that an image belongs to."""
        return self.names[int(np.searchsorted(np.cumsum(self.counts), image, side="right"))]


def cached_images(source: ImageSource, folder: Path) -> ClassImages:
    """The images of `source`, from its file in `folder`, which is made if it is not there.

    Raises:
        ValueError: from `source`, e.g. with the path of a corrupt image.
    """
    key = _key(source)
    path = folder / f"{source.title}-{key[:16]}.images"
    cached = _open(path, key)
    if cached is None:
        _build(path, key, source)
        cached = _open(path, key)
        assert cached is not None
    return cached


def images_in_memory(images: Pixels, counts: Mapping[str, int]) -> ClassImages:
    """Images ``[images, C, H, W]`` that are there already, class after class, without a file."""
    assert len(images) == sum(counts.values())
    return ClassImages(
        torch.from_numpy(images),
        tuple(counts),
        np.array(list(counts.values()), dtype=np.int64),
        np.frombuffer(_digests(images), np.uint64),
    )


def cache_folder(data: Path, cache_dir: str | None) -> Path:
    """`cache_dir`, else a hidden folder beside the data, else (read-only) the user's own."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    if os.access(data, os.W_OK):
        return data / CACHE_FOLDER
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lightning_maml"


def _key(source: ImageSource) -> str:
    digest = hashlib.blake2b(digest_size=32)
    digest.update(json.dumps([VERSION, asdict(source.spec)]).encode())
    for word in source.identity():
        digest.update(word.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def _open(path: Path, key: str) -> ClassImages | None:
    """The file's content, or None if it is missing, foreign or not of the right length."""
    try:
        with path.open("rb") as file:
            header, start = _read_header(file)
            length = os.fstat(file.fileno()).st_size
        shape, counts = tuple(header["shape"]), np.array(header["counts"], dtype=np.int64)
        size = int(np.prod(shape))
        if header["key"] != key or length != start + size + 8 * shape[0]:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Copy on write: torch wants memory it may write to, the file stays as it is.
    images = torch.from_numpy(np.memmap(path, np.uint8, "c", start, shape))
    digests = np.fromfile(path, np.uint64, offset=start + size)
    return ClassImages(images, tuple(header["names"]), counts, digests, (path, key))


def _build(path: Path, key: str, source: ImageSource) -> None:
    counts, fill = source.open()
    shape = (sum(counts.values()), *source.spec.shape)
    names, per_class = list(counts), list(counts.values())
    header = _header({"key": key, "shape": shape, "names": names, "counts": per_class})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("x+b") as file:
            file.write(header)
            _reserve(file, len(header) + int(np.prod(shape)) + 8 * shape[0])
            images = np.memmap(file, np.uint8, "r+", len(header), shape)
            fill(images)
            digests = _digests(images)
            images.flush()
            del images  # unmapped, else Windows would not move the file
            file.seek(-8 * shape[0], os.SEEK_END)
            file.write(digests)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _digests(images: Pixels) -> bytes:
    """Eight bytes for each image."""
    return b"".join(hashlib.blake2b(image, digest_size=8).digest() for image in images)


def _reserve(file: BinaryIO, length: int) -> None:
    """Take the space now: a disk that is full later would kill the process, not raise."""
    file.flush()
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, length)
    else:
        file.truncate(length)


def _header(content: dict[str, Any]) -> bytes:
    """Magic, length of the JSON that follows, the JSON, and zeros up to the alignment."""
    text = json.dumps(content).encode()
    header = MAGIC + len(text).to_bytes(8, "little") + text
    return header + bytes(-len(header) % ALIGNMENT)


def _read_header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The JSON and the place where the pixels start.

    Raises:
        ValueError: if the file does not begin as `_header` writes it.
    """
    start = file.read(len(MAGIC) + 8)
    length = int.from_bytes(start[len(MAGIC) :], "little")
    if not start.startswith(MAGIC) or length > 2**32:
        raise ValueError("not an image cache")
    content = json.loads(file.read(length))
    if not isinstance(content, dict):
        raise ValueError("not an image cache")
    end = len(start) + length
    return content, end + -end % ALIGNMENT
