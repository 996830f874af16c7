"""Augmentation: each image as torchvision makes it, from numbers that belong to the task."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from datamodules import Glyphs
from datamodules.augmentation import Augmentation, Augmented, augmentation_from
from datamodules.sampling import uniforms, uniforms_of_task
from lightning_maml import Episode, MetaLearner
from lightning_maml.models import Conv4
from tests.datamodules.test_episodic import on_rank, trainer

# Python 3.12 and newer warn of any fork from a process with threads, as loader workers are.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

ALL = {"crop": 3, "flip": True, "color": 0.5}
SMALL = {"characters": (12, 6, 6), "drawings": 6, "train_batches_per_epoch": 10, "n_way": 3}
SMALL |= {"k_shot": 2, "query_shot": 2, "meta_batch_size": 4}


def glyphs(**changed: Any) -> Glyphs:
    return Glyphs(**(SMALL | {"augment": ALL} | changed))


def arrived(data: Glyphs, loader: Any = None) -> list[Episode]:
    """What a learner sees of training."""
    loader = data.train_dataloader() if loader is None else loader
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def by_torchvision(image: Tensor, draws: list[float], augment: Augmentation) -> Tensor:
    """One image ``[C, H, W]``, with torchvision's own functions."""
    top, left, flip, *colors = draws
    size = 2 * augment.crop + 1
    image = functional.pad(image, [augment.crop])
    image = functional.crop(image, int(top * size), int(left * size), 8, 8)
    if augment.flip and flip < 0.5:
        image = functional.horizontal_flip(image)
    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
    )
    for change, draw in zip(adjust, colors, strict=True):
        image = change(image, 1 + augment.color * (2 * draw - 1))
    return image


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(
    "settings",
    [ALL, {"crop": 2}, {"flip": True}, {"color": 0.8}, {}],
    ids=["all", "crop", "flip", "color", "none"],
)
def test_each_image_is_as_torchvision_makes_it(settings: dict[str, Any], channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    support, query = (torch.rand(3, n, channels, 8, 8, generator=generator) for n in (4, 6))
    draws = torch.rand(3, 10, 6, generator=generator)
    labels = torch.zeros(3, 4, dtype=torch.int64)
    augment = Augmentation(**settings)
    episode = Episode(support, labels, query, torch.zeros(3, 6, dtype=torch.int64))
    new = augment(Augmented(episode, draws))
    got = torch.cat([new.support_x, new.query_x], dim=1)
    images = torch.cat([support, query], dim=1)
    for task in range(3):
        for image in range(10):
            numbers = draws[task, image].tolist()
            want = by_torchvision(images[task, image], numbers, augment)
            torch.testing.assert_close(got[task, image], want)
    assert new.support_y is labels
    assert torch.equal(got, images) == (settings == {})


def test_training_images_are_augmented_and_evaluation_is_not() -> None:
    plain, augmented = glyphs(augment=None), glyphs()
    pairs = zip(arrived(plain), arrived(augmented), strict=True)
    assert all(not torch.equal(one.support_x, other.support_x) for one, other in pairs)
    for stage in ("val", "test", "predict"):
        one, other = (
            arrived(data, getattr(data, f"{stage}_dataloader")()) for data in (plain, augmented)
        )
        for episodes in zip(one, other, strict=True):
            assert all(map(torch.equal, *episodes))


def test_the_same_images_whoever_loads_them() -> None:
    """For any number of workers, any partition into batches, and on two ranks."""
    first = [torch.cat(parts) for parts in zip(*arrived(glyphs()), strict=True)]
    others = [glyphs(num_workers=2), glyphs(meta_batch_size=2, train_batches_per_epoch=20)]
    for other in others:
        assert all(
            torch.equal(one, torch.cat(parts))
            for one, parts in zip(first, zip(*arrived(other), strict=True), strict=True)
        )
    shares = []
    for rank in range(2):
        data = glyphs(meta_batch_size=2)
        loader = on_rank(data, rank, 2).train_dataloader()
        data.trainer = None
        shares.append(arrived(data, loader))
    together = [e.query_x for step in zip(*shares, strict=True) for e in step]
    assert torch.equal(torch.cat(together), first[2])
    assert not torch.equal(arrived(glyphs(seed=1))[0].query_x, first[2][:4])


@pytest.mark.parametrize("same", [(), ("flip",), ("crop", "color"), ("crop", "flip", "color")])
def test_what_makes_the_class_is_the_same_for_support_and_query(same: tuple[str, ...]) -> None:
    """Of the numbers: one value per class and task for what is named, as many as images else."""
    columns = {"crop": (0, 1), "flip": (2,), "color": (3, 4, 5)}
    data = glyphs(augment=ALL | {"same_for_class": list(same)})
    for batch in data.train_dataloader():
        assert isinstance(batch, Augmented)
        labels = torch.cat([batch.episode.support_y, batch.episode.query_y], dim=1)
        for task in range(4):
            for name, of_name in columns.items():
                for column in of_name:
                    values = batch.draws[task, :, column]
                    per_class = [len(set(values[labels[task] == c].tolist())) for c in range(3)]
                    assert per_class == ([1, 1, 1] if name in same else [4, 4, 4])
                    assert len(set(values.tolist())) == sum(per_class)


def test_every_shift_and_both_directions_come_equally_often() -> None:
    """A lit pixel in the middle, moved by -2 .. 2 both ways: 25 places, 400 times each."""
    x = torch.zeros(10_000, 1, 1, 7, 7)
    x[..., 3, 3] = 1
    y = torch.zeros(10_000, 1, dtype=torch.int64)
    draws = torch.rand(10_000, 2, 6, generator=torch.Generator().manual_seed(1))
    new = Augmentation(crop=2)(Augmented(Episode(x, y, x, y), draws))
    counts = new.support_x.sum((0, 1, 2))
    assert counts[1:6, 1:6].sum() == 10_000
    assert (counts[1:6, 1:6] - 400).abs().max() < 5 * 400**0.5


def test_a_tasks_numbers_are_a_stream_of_their_own() -> None:
    few, many = (uniforms_of_task(0, "train", 5, draws) for draws in (7, 100))
    assert (few == many[:7]).all()
    seen = [many, uniforms_of_task(0, "train", 6, 100), uniforms_of_task(0, "val", 5, 100)]
    seen += [
        uniforms(0, split, 0, 1000, 4, s).ravel() for split in ("train", "val") for s in range(4)
    ]
    together = [number for numbers in seen for number in numbers.tolist()]
    assert len(set(together)) == len(together)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "64-true"])
def test_a_learner_sees_episodes_of_its_precision(precision: str) -> None:
    class Sees(MetaLearner):
        def training_step(self, episode: Episode, batch_idx: int) -> None:
            assert isinstance(episode, Episode)
            assert episode.support_x.dtype == self.dtype
            assert episode.support_x.min() >= 0
            assert episode.support_x.max() <= 1
            super().training_step(episode, batch_idx)

    network = Conv4(n_way=3, in_channels=1, channels=4, image_size=28)
    learner = Sees(network, loss="cross_entropy", inner_lr=0.1)
    data = glyphs(val_tasks=2)
    trainer(max_steps=2, max_epochs=-1, precision=precision).fit(learner, datamodule=data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": -1}, r"`augment\.crop` must be an integer of at least 0, got -1"),
        ({"flip": 1}, r"`augment\.flip` must be true or false, got 1"),
        ({"color": 1.5}, r"`augment\.color` must be from 0 to 1, got 1\.5"),
        ({"colour": 0.5}, "`augment` must have no settings but crop, flip, .* got 'colour'"),
        ({"same_for_class": ["turn"]}, r"`augment\.same_for_class` must list some of crop, flip"),
        ({"same_for_class": "flip"}, r"`augment\.same_for_class` must list some of .* 'flip'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augmentation_from(settings)
    with pytest.raises(ValueError, match=message):
        glyphs(augment=settings)
