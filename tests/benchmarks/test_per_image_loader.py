"""The usual loader gives what ours gives: the same shapes and labels, and the same pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import MiniImagenet, Omniglot, Sinusoid
from datamodules.episodic import EpisodicDataModule
from datamodules.settings import Sizes
from per_image_loader import (
    EpisodeSampler,
    ImageFiles,
    image_files,
    image_folder_loader,
    per_image_loader,
)

PER_CLASS = 4
SHOTS = {"n_way": 3, "k_shot": 1, "query_shot": 2}


def write_classes(folder: Path, names: list[str], size: int) -> None:
    draws = np.random.default_rng(len(str(names)))
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(PER_CLASS):
            pixels = draws.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


@pytest.fixture
def mini(tmp_path: Path) -> MiniImagenet:
    """With images that are not of the size that they get."""
    for split in ("train", "val", "test"):
        write_classes(tmp_path / split, [f"{split}{number}" for number in range(3)], size=30)
    return MiniImagenet(str(tmp_path), cache_dir=str(tmp_path / "cache"), **SHOTS)


@pytest.fixture
def omniglot(tmp_path: Path) -> Omniglot:
    """Two alphabets, with characters for training in both."""
    write_classes(tmp_path / "images_background" / "greek", ["a", "b", "c"], size=28)
    write_classes(tmp_path / "images_evaluation" / "runes", ["d", "e", "f"], size=28)
    cache = str(tmp_path / "cache")
    return Omniglot(str(tmp_path), cache_dir=cache, characters=(4, 1, 1), **SHOTS)


@pytest.fixture(params=["mini", "omniglot"])
def data(request: pytest.FixtureRequest) -> EpisodicDataModule:
    return request.getfixturevalue(request.param)


def files_of(data: EpisodicDataModule) -> ImageFiles:
    files = image_files(data)
    assert files is not None
    return files


def test_episodes_are_like_ours(data: EpisodicDataModule) -> None:
    """But for the number of tasks in a batch, which is one."""
    ours = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    episodes = list(per_image_loader(files_of(data), data.shots, 5, seed=0, num_workers=0))
    assert len(episodes) == 5
    for episode in episodes:
        for part, expected in zip(episode, ours, strict=True):
            assert part.shape == (1, *expected.shape[1:])
            assert part.dtype == expected.dtype
        assert torch.equal(episode.support_y[0], ours.support_y[0])
        assert torch.equal(episode.query_y[0], ours.query_y[0])
    assert not torch.equal(episodes[0].support_x, episodes[1].support_x)


def test_pixels_are_ours(data: EpisodicDataModule) -> None:
    """Of each image of each class, in each rotation."""
    files, images = files_of(data), data.class_images()["train"]
    assert len(files.classes) == len(images.names) * files.rotations
    for number, of_class in enumerate(files.classes):
        stored, turn = divmod(number, files.rotations)
        first = images.starts[stored]
        assert len(of_class) == images.counts[stored] == PER_CLASS
        for place, item in enumerate(of_class):
            expected = images.images[first + place].rot90(turn, (-2, -1)) / 255
            torch.testing.assert_close(files[item], expected)


def test_a_task_has_distinct_images_of_distinct_classes() -> None:
    """Three of five classes, two and one images of each of their four; support first."""
    classes = [range(4 * number, 4 * number + 4) for number in range(5)]
    shots = Sizes(n_way=3, k_shot=2, query_shot=1)
    seen = set()
    for items in EpisodeSampler(classes, shots, 50, seed=0):
        assert len(set(items)) == len(items) == 9
        of_class = [item // 4 for item in items]
        assert of_class[:6] == [number for number in of_class[6:] for _ in range(2)]
        assert len(set(of_class)) == 3
        seen |= set(items)
    assert seen == set(range(20))


def test_image_folder_gives_as_many_images(data: EpisodicDataModule) -> None:
    """Nine for each of five tasks, from all class folders."""
    loader = image_folder_loader(files_of(data), data.shots, 5, seed=0, num_workers=0)
    batches = list(loader)
    assert [images.shape[0] for images, _ in batches] == [9] * 5
    ours = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batches[0][0].shape[1:] == ours.query_x.shape[2:]


def test_data_without_image_files_has_none(mini: MiniImagenet) -> None:
    assert image_files(Sinusoid()) is None
    assert image_files(MiniImagenet(str(mini.root), class_batch_size=2)) is None
