"""Batches of ordinary classification over all training classes, for baselines that pretrain."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from datamodules.episode_loader import TaskSampler
from datamodules.image_cache import ClassImages
from datamodules.sampling import uniforms
from datamodules.settings import check_at_least
from lightning_maml.episode import Episode


@dataclass(frozen=True)
class ClassBatches:
    """Batches of images of any class, each labelled with the number of its class.

    A batch is drawn anew from all images, uniformly and with replacement. It comes as a task whose
    support and query sets are both the whole batch, so that it takes the same road as a task.
    """

    images: ClassImages
    seed: int
    batch_size: int
    split: str = "train"

    def __call__(self, first_task: int, tasks: int) -> Episode:
        """Consecutive batches: x ``[tasks, batch_size, C, H, W]`` uint8, y ``[tasks, batch_size]``.

        Class numbers follow the order of `images.names`.
        """
        draws = uniforms(self.seed, self.split, first_task, tasks, self.batch_size, stream=2)
        ends = np.cumsum(self.images.counts)
        numbers = (draws * ends[-1]).astype(np.int64)
        x = torch.from_numpy(self.images.images.numpy()[numbers])
        y = torch.from_numpy(np.searchsorted(ends, numbers, side="right"))
        return Episode(x, y, x, y)


def checked_size(class_batch_size: int | None) -> int | None:
    """The setting itself.

    Raises:
        ValueError: naming it, if it is below 1.
    """
    if class_batch_size is not None:
        check_at_least("class_batch_size", class_batch_size, 1)
    return class_batch_size


def with_class_batches(
    samplers: Mapping[str, TaskSampler],
    images: Mapping[str, ClassImages],
    seed: int,
    class_batch_size: int | None,
) -> dict[str, TaskSampler]:
    """The same, but for training batches of so many images of all classes; None: as they are."""
    if class_batch_size is None or "train" not in images:
        return dict(samplers)
    return {**samplers, "train": ClassBatches(images["train"], seed, class_batch_size)}
