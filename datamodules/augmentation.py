"""Augmented training images: cropped, flipped and recolored on the batch's device.

The random numbers are drawn with the task, on the host, and travel with the episode: they follow
from seed, split and task number, whatever the workers, ranks, batches and device.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.sampling import uniforms_of_task
from datamodules.settings import check_at_least
from lightning_maml.episode import Episode, TaskBatch

COLUMNS = {"crop": slice(0, 2), "flip": slice(2, 3), "color": slice(3, 6)}  # of the numbers
NUMBERS = 6  # for each image

# B images of a batch


class Augmented(NamedTuple):
    """An episode and the random numbers for its images, support first.

    Shape: draws ``[tasks, support + query images, NUMBERS]`` from U[0, 1).
    """

    episode: Episode
    draws: Tensor


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images.

    Attributes:
        crop: put so many black pixels around the image, and cut one of its old size out of that
        flip: turn left to right, every second time
        color: multiply brightness, contrast and saturation each by a factor from
            [1 - color, 1 + color], as torchvision's `ColorJitter`, in this order
        same_for_class: which of "crop", "flip" and "color" are the same for all images of a class
            in a task, support and query: those that make another class of it. The others are
            drawn for each image.

    Raises:
        ValueError: naming the setting that is out of range.
    """

    crop: int = 0
    flip: bool = False
    color: float = 0.0
    same_for_class: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_at_least("augment.crop", self.crop, 0)
        if not isinstance(self.flip, bool):
            raise ValueError(f"`augment.flip` must be true or false, got {self.flip!r}.")
        if not isinstance(self.color, int | float) or not 0 <= self.color <= 1:
            raise ValueError(f"`augment.color` must be from 0 to 1, got {self.color!r}.")
        if isinstance(self.same_for_class, str) or not set(self.same_for_class) <= set(COLUMNS):
            raise ValueError(
                f"`augment.same_for_class` must list some of {', '.join(COLUMNS)}, "
                f"got {self.same_for_class!r}."
            )

    def __call__(self, batch: Augmented) -> Episode:
        """The episode with its images, floats in [0, 1] ``[tasks, images, C, H, W]``, augmented."""
        episode, draws = batch
        sizes = [episode.support_x.shape[1], episode.query_x.shape[1]]
        x = torch.cat([episode.support_x, episode.query_x], dim=1)
        new = self._images(x.flatten(0, 1), draws.flatten(0, 1)).view_as(x)
        support_x, query_x = new.split(sizes, dim=1)
        return episode._replace(support_x=support_x, query_x=query_x)

    def _images(self, x: Tensor, draws: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` by their numbers ``[B, NUMBERS]``."""
        if self.crop:
            x = _cropped(x, self.crop, draws[:, COLUMNS["crop"]])
        if self.flip:
            flipped = draws[:, COLUMNS["flip"]].view(-1, 1, 1, 1) < 0.5
            x = torch.where(flipped, x.flip(-1), x)
        if self.color:
            factors = 1 - self.color + 2 * self.color * draws[:, COLUMNS["color"]]
            x = _recolored(x, factors.to(x.dtype))
        return x


def augmentation_from(settings: Mapping[str, Any] | None) -> Augmentation | None:
    """The augmentation that a datamodule's setting `augment` asks for; None for none.

    Raises:
        ValueError: naming what is unknown or out of range.
    """
    if settings is None:
        return None
    if not isinstance(settings, Mapping):
        raise ValueError(f"`augment` must be settings by name or None, got {settings!r}.")
    known = [field.name for field in fields(Augmentation)]
    if unknown := set(settings) - set(known):
        raise ValueError(
            f"`augment` must have no settings but {', '.join(known)}, got {min(unknown)!r}."
        )
    return Augmentation(**settings)


@dataclass(frozen=True)
class AugmentedTasks:
    """The tasks of `sampler`, each with the numbers for its images."""

    sampler: Callable[[int, int], Episode | TaskBatch]
    augmentation: Augmentation
    seed: int
    split: str

    def __call__(self, first_task: int, tasks: int) -> Augmented:
        """Consecutive tasks and their numbers."""
        episode = self.sampler(first_task, tasks)
        assert isinstance(episode, Episode)
        labels = torch.cat([episode.support_y, episode.query_y], dim=1).numpy()
        draws = [self._draws(first_task + i, labels[i]) for i in range(tasks)]
        return Augmented(episode, torch.from_numpy(np.stack(draws).astype(np.float32)))

    def _draws(self, task: int, labels: np.ndarray) -> np.ndarray:
        """For the images with these labels ``[images]``: ``[images, NUMBERS]``."""
        rows = len(labels) + int(labels.max()) + 1
        numbers = uniforms_of_task(self.seed, self.split, task, rows * NUMBERS)
        numbers = numbers.reshape(rows, NUMBERS)
        of_image, of_class = numbers[: len(labels)], numbers[len(labels) :][labels]
        for name in self.augmentation.same_for_class:
            of_image[:, COLUMNS[name]] = of_class[:, COLUMNS[name]]
        return of_image


def _cropped(x: Tensor, crop: int, draws: Tensor) -> Tensor:
    """Each image at its own place in the padded one."""
    height, width = x.shape[-2:]
    top, left = (draws * (2 * crop + 1)).long().clamp(max=2 * crop).unbind(1)
    padded = torch.nn.functional.pad(x, [crop] * 4)
    places = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view, [B, C, top, left, H, W]
    return places[torch.arange(len(x), device=x.device), :, top, left]


def _recolored(x: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation times factors ``[B, 3]``."""
    from torchvision.transforms.v2 import functional  # slow, and needed here only

    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    x = (brightness * x).clamp(0, 1)
    mean = functional.rgb_to_grayscale(x).mean((-3, -2, -1), keepdim=True)
    x = (contrast * x + (1 - contrast) * mean).clamp(0, 1)
    if x.shape[1] == 1:
        return x
    return (saturation * x + (1 - saturation) * functional.rgb_to_grayscale(x)).clamp(0, 1)
