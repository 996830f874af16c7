"""Synthetic images whose pixels say who they are, and real mini-ImageNet where it is at hand."""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.image_cache import ClassImages

MINI_ZIPS = [f"mini-imagenet-84-{name}.zip" for name in ("train-a", "train-b", "val", "test")]
ALPHABETS = {"images_background": ("Greek", "Korean"), "images_evaluation": ("Tibetan",)}
TWICE = {  # the pictures that mini-ImageNet holds in train and in val
    "n0388860500000646",
    "n0388860500000663",
    "n0388860500000751",
    "n0388860500000943",
    "n0388860500001285",
    "n0438903300000447",
    "n0353578000000512",
    "n0353578000000484",
    "n0353578000000601",
    "n0353578000000253",
    "n0353578000001275",
    "n0295082600000439",
}


@pytest.fixture(scope="session")
def mini_zips(real_data: Path) -> list[Path]:
    """The files that mini-ImageNet is shipped in."""
    return [real_data / name for name in MINI_ZIPS]


@pytest.fixture(scope="session")
def mini_root(mini_zips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All classes of mini-ImageNet, 20 images of each, and the pictures that are there twice."""
    root = tmp_path_factory.mktemp("mini")
    for path in mini_zips:
        with zipfile.ZipFile(path) as archive:
            taken: dict[str, int] = {}
            for member in sorted(archive.namelist()):
                folder, _, file = member.rpartition("/")
                taken[folder] = taken.get(folder, 0) + 1
                if file.endswith(".jpg") and (taken[folder] <= 20 or Path(file).stem in TWICE):
                    archive.extract(member, root)
    return root


@pytest.fixture
def images_with_ids() -> Callable[[Sequence[int]], ClassImages]:
    """Classes of given sizes, images ``[N, 1, 2, 2]``: number (two bytes), class, 0."""

    def make(counts: Sequence[int]) -> ClassImages:
        number = np.arange(sum(counts))
        of_class = np.repeat(np.arange(len(counts)), counts)
        pixels = np.stack([number % 256, number // 256, of_class, 0 * number], axis=1)
        return ClassImages(
            torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 2, 2),
            tuple(f"class{i}" for i in range(len(counts))),
            np.array(counts),
            number.astype(np.uint64),
        )

    return make


@pytest.fixture
def write_classes() -> Callable[..., None]:
    """Write class folders of small random images."""

    def write(folder: Path, names: Sequence[str], per_class: int, size: int = 10) -> None:
        for name in names:
            (folder / name).mkdir(parents=True)
            for i in range(per_class):
                seed = list(f"{folder.name}/{name}/{i}".encode())
                pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{name}_{i:02}.png")

    return write


@pytest.fixture
def make_omniglot() -> Callable[[Path], None]:
    """Twelve characters of four drawings each, ink (0) on paper (255)."""

    def make(folder: Path) -> None:
        rng = np.random.default_rng(0)
        for part, alphabets in ALPHABETS.items():
            for alphabet in alphabets:
                for character in range(1, 5):
                    place = folder / part / alphabet / f"character{character:02}"
                    place.mkdir(parents=True)
                    for i in range(4):
                        ink = rng.random((105, 105)) < 0.1
                        Image.fromarray(~ink).save(place / f"{character:04}_{i:02}.png")

    return make
