"""N-way K-shot tasks from class images (Sec. 5.2): which images, and gathering them.

A task draws `n_way` distinct classes in random order; the place in that order is the label, so
a class gets every label equally often and nothing can be known before adapting. Of each class it
draws `k_shot` + `query_shot` distinct images, the first `k_shot` for support.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from datamodules.episode_loader import TaskSampler
from datamodules.image_cache import ClassImages
from datamodules.sampling import Integers, choose_distinct, uniforms
from datamodules.settings import Shots, Sizes
from datamodules.varying_sizes import VaryingTasks
from lightning_maml.episode import Episode

SHOWN = 5  # so many classes in an error

# T tasks, N classes of a task, S support and Q query images per class


@dataclass(frozen=True)
class ImageTasks:
    """Tasks of one split.

    With `rotations` 4 every class is four, turned by 0, 90, 180 and 270 degrees: class c is
    the images of class c // 4 turned (c % 4) times.
    """

    images: ClassImages
    seed: int
    split: str
    n_way: int
    k_shot: int
    query_shot: int
    rotations: int = 1

    @property
    def sizes(self) -> Sizes:
        """What a task has; the most where sizes vary."""
        return Sizes(self.n_way, self.k_shot, self.query_shot)

    def choose(self, first_task: int, tasks: int) -> tuple[Integers, Integers]:
        """Class numbers ``[T, N]`` and image numbers ``[T, N, S + Q]`` of consecutive tasks."""
        of_classes = uniforms(self.seed, self.split, first_task, tasks, self.n_way)
        classes = choose_distinct(of_classes, len(self.images.names) * self.rotations)
        stored = classes // self.rotations
        shots = self.k_shot + self.query_shot
        of_images = uniforms(
            self.seed, self.split, first_task, tasks, self.n_way * shots, stream=1
        ).reshape(tasks, self.n_way, shots)
        chosen = choose_distinct(of_images, self.images.counts[stored])
        return classes, self.images.starts[stored][..., None] + chosen

    def __call__(self, first_task: int, tasks: int, sizes: Sizes | None = None) -> Episode:
        """Consecutive tasks: x ``[T, N * S, C, H, W]`` uint8, y ``[T, N * S]`` int64.

        With `sizes` given, the tasks without the classes and images that exceed them.
        """
        n_way, k_shot, query_shot = sizes or self.sizes
        classes, numbers = self.choose(first_task, tasks)
        turns, numbers = classes[:, :n_way] % self.rotations, numbers[:, :n_way]
        query = numbers[..., self.k_shot : self.k_shot + query_shot]
        return Episode(
            self._gather(numbers[..., :k_shot], turns),
            _labels(tasks, n_way, k_shot),
            self._gather(query, turns),
            _labels(tasks, n_way, query_shot),
        )

    def _gather(self, numbers: Integers, turns: Integers) -> Tensor:
        """The images of ``[T, N, shots]`` numbers, as ``[T, N * shots, C, H, W]``.

        In numpy, whose one thread copies as fast as torch's several and does not wait for them
        on a busy machine.
        """
        tasks, n_way, shots = numbers.shape
        x = self.images.images.numpy()[numbers.reshape(tasks * n_way, shots)]
        for turn in range(1, self.rotations):
            turned = turns.reshape(-1) == turn
            x[turned] = np.rot90(x[turned], turn, (-2, -1))
        return torch.from_numpy(x).view(tasks, n_way * shots, *x.shape[2:])


def _labels(tasks: int, n_way: int, shots: int) -> Tensor:
    return torch.arange(n_way).repeat_interleave(shots).repeat(tasks, 1)


def image_tasks(
    splits: Mapping[str, ClassImages], shots: Shots, seed: int, rotations: int = 1
) -> dict[str, TaskSampler]:
    """The task samplers of each split.

    Raises:
        ValueError: naming the setting, if a split has too few classes or a class too few images.
    """
    samplers: dict[str, TaskSampler] = {}
    for split, images in splits.items():
        counts = dict(zip(images.names, images.counts.tolist(), strict=True))
        check_enough(counts, shots, split, rotations)
        least, most = shots.bounds(split)
        sampler = ImageTasks(images, seed, split, *most, rotations)
        samplers[split] = sampler if least == most else VaryingTasks(sampler, seed, split, least)
    return samplers


def check_enough(counts: Mapping[str, int], shots: Shots, split: str, rotations: int = 1) -> None:
    """Are there enough classes and images for the tasks of a split?

    Args:
        counts: images of each class

    Raises:
        ValueError: naming the setting that is too large, and the classes that are too small.
    """
    classes, (_, most) = len(counts) * rotations, shots.bounds(split)
    n_way, k_shot, query_shot = (shots.setting(split, size) for size in Sizes._fields)
    if classes < most.n_way:
        raise ValueError(
            f"`{n_way}` must be at most {classes} (classes in the {split} split), got {most.n_way}."
        )
    needed = most.k_shot + most.query_shot
    small = sorted((count, name) for name, count in counts.items() if count < needed)
    if small:
        (count, smallest), *others = small
        shown = ", ".join(f"{name!r} ({count})" for count, name in others[:SHOWN])
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        raise ValueError(
            f"`{k_shot}` + `{query_shot}` must be at most {count} (images of the class "
            f"{smallest!r} in the {split} split), "
            f"got {most.k_shot} + {most.query_shot} = {needed}."
            + (f" Too small, too: {shown}{more}." if others else "")
        )
