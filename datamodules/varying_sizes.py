"""Tasks whose number of classes and of examples is drawn anew for each training batch.

The sizes are a function of seed, split and number of the batch, and all tasks of a batch, on all
ranks, share them. A task of another size is the same task with fewer classes or examples.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from datamodules.sampling import uniforms
from datamodules.settings import Sizes
from lightning_maml.episode import Episode

STREAM = 3


class Resizable(Protocol):
    """A task sampler that can leave away classes and examples."""

    @property
    def sizes(self) -> Sizes:
        """What a task has at most."""

    def __call__(self, first_task: int, tasks: int, sizes: Sizes | None = None) -> Episode:
        """Consecutive tasks of given sizes."""


@dataclass(frozen=True)
class VaryingTasks:
    """The tasks of `sampler`, each batch with sizes of its own, from `least` to the sampler's.

    Each size is drawn uniformly and by itself. A batch is `batch` consecutive tasks.
    """

    sampler: Resizable
    seed: int
    split: str
    least: Sizes
    batch: int = 1

    def in_batches_of(self, tasks: int) -> Self:
        """The same tasks with sizes that change every so many."""
        return replace(self, batch=tasks)

    def sizes_of(self, batch: int) -> Sizes:
        """The sizes of a batch by its number."""
        draws = uniforms(self.seed, self.split, batch, 1, len(self.least), STREAM)[0]
        low, high = np.array(self.least), np.array(self.sampler.sizes)
        return Sizes(*(low + (draws * (high - low + 1)).astype(np.int64)).tolist())

    def __call__(self, first_task: int, tasks: int) -> Episode:
        """Consecutive tasks of one batch; shapes as those of `sampler`."""
        number = first_task // self.batch
        assert (first_task + tasks - 1) // self.batch == number
        return self.sampler(first_task, tasks, self.sizes_of(number))
