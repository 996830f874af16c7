"""Batches over all classes: labels are the images' own, every image comes equally often."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from datamodules import ImageFolder, MiniImagenet
from datamodules.class_batches import ClassBatches
from datamodules.image_cache import ClassImages

MakeImages = Callable[[Sequence[int]], ClassImages]


def test_labels_are_those_of_the_images(images_with_ids: MakeImages) -> None:
    """The third pixel of an image is its class."""
    images = images_with_ids([3, 1, 7, 2])
    episode = ClassBatches(images, seed=1, batch_size=50)(0, 20)
    assert episode.query_x.shape[:2] == (20, 50)
    assert torch.equal(episode.query_x[:, :, 0, 1, 0].long(), episode.query_y)
    assert episode.support_x is episode.query_x
    numbers = episode.query_x[:, :, 0, 0, 0].flatten().bincount(minlength=13)
    expected = 1000 / 13
    assert (numbers - expected).abs().max() < 5 * expected**0.5


def test_batches_are_a_function_of_their_number(images_with_ids: MakeImages) -> None:
    batches = ClassBatches(images_with_ids([5, 5]), seed=1, batch_size=8)
    together, second = batches(0, 3), batches(1, 1)
    assert torch.equal(together.query_x[1:2], second.query_x)
    assert not torch.equal(together.query_x[0], together.query_x[1])


@pytest.mark.parametrize("kind", [MiniImagenet, ImageFolder])
def test_the_datamodule_trains_on_them_and_evaluates_on_tasks(
    kind: type[MiniImagenet | ImageFolder], tmp_path: Path, write_classes: Callable[..., None]
) -> None:
    names = [f"n{i}" for i in range(7)]
    write_classes(tmp_path / "train", names, 4, size=84)
    for split in ("val", "test"):
        write_classes(tmp_path / split, [f"{split}{i}" for i in range(5)], 4, size=84)
    data = kind(
        root=str(tmp_path), class_batch_size=60, query_shot=1, val_tasks=2, meta_batch_size=1
    )
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert batch.query_x.shape == (1, 60, 3, 84, 84)
    assert set(batch.query_y.flatten().tolist()) == set(range(7))
    tasks = next(iter(data.val_dataloader()))
    assert tasks.support_x.shape == (2, 5, 3, 84, 84)


def test_a_batch_without_images_is_refused() -> None:
    with pytest.raises(ValueError, match="`class_batch_size` must be an integer of at least 1"):
        MiniImagenet(class_batch_size=0)
