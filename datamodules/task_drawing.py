"""Support and query examples of tasks that are arrays, with a fixed number of each.

Tasks may have any number of examples. All of a batch have the same number of support and of query
examples, drawn anew whenever a task comes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch

from datamodules.sampling import Integers, choose_distinct, uniforms
from datamodules.settings import Sizes
from datamodules.task_arrays import Examples, TaskArrays, check_alike, task_from
from lightning_maml.episode import Episode

STREAM = 2  # of which task it is; 0 and 1 are classes and examples


class TaskSource(Protocol):
    """Task number t of a split."""

    def __call__(self, number: int) -> TaskArrays:
        """The task's arrays, the same at each call."""


@dataclass(frozen=True)
class TasksInOrder:
    """A list of tasks, from its beginning again after its end."""

    tasks: Sequence[TaskArrays]

    def __call__(self, number: int) -> TaskArrays:
        """Task `number`, counted modulo their number."""
        return self.tasks[number % len(self.tasks)]


@dataclass(frozen=True)
class TasksShuffled:
    """A list of tasks, shuffled anew each time it is gone through."""

    tasks: Sequence[TaskArrays]
    seed: int
    split: str

    def __call__(self, number: int) -> TaskArrays:
        """Task `number` of the passes one after the other."""
        turn, place = divmod(number, len(self.tasks))
        draws = uniforms(self.seed, self.split, turn, 1, len(self.tasks), STREAM)[0]
        return self.tasks[int(np.argsort(draws, kind="stable")[place])]


@dataclass(frozen=True)
class TasksMade:
    """Tasks that a function makes from a seed, which follows from seed, split and task number."""

    make: Callable[[int], object]
    path: str
    seed: int
    split: str

    def __call__(self, number: int) -> TaskArrays:
        """What the function makes for task `number`."""
        draw = uniforms(self.seed, self.split, number, 1, 1, STREAM)[0, 0]
        seed = int(draw * 2**32)
        return task_from(self.make(seed), f"{self.path}({seed})")


class Groups(NamedTuple):
    """A set's examples by class: ``rows`` lists them class after class, in order of ``labels``."""

    labels: list[int]
    rows: Integers
    starts: Integers
    counts: Integers


@dataclass(frozen=True)
class ArrayTasks:
    """The tasks of one split.

    With `by_class` a task has `n_way` classes with `k_shot` and `query_shot` examples of each,
    class after class; otherwise so many in all. `relabel` draws the classes and numbers them in
    the order of drawing; without it, labels are those of the task.
    """

    source: TaskSource
    seed: int
    split: str
    sizes: Sizes
    by_class: bool = False
    relabel: bool = False

    def __call__(self, first_task: int, tasks: int, sizes: Sizes | None = None) -> Episode:
        """Consecutive tasks: all ``[tasks, n_way * shots, ...]``.

        Raises:
            ValueError: naming the task that is too small or of other shapes than the first.
        """
        numbers = range(first_task, first_task + tasks)
        arrays = [self.source(number) for number in numbers]
        check_alike(arrays)
        parts = [
            self._draw(task, number, sizes or self.sizes)
            for task, number in zip(arrays, numbers, strict=True)
        ]
        return Episode(*map(torch.stack, zip(*parts, strict=True)))

    def grouped(self, task: TaskArrays) -> list[Groups]:
        """The examples of each set by class, or all in one group.

        Raises:
            ValueError: naming the task, if it has too few classes or examples for `sizes`.
        """
        found = [self._by_class(examples, task.name) for examples in task.sets]
        if found[0].labels != found[-1].labels:
            raise ValueError(
                f"the task {task.name}: `support_y` and `query_y` must hold the same classes, "
                f"got {found[0].labels} and {found[-1].labels}."
            )
        shots = {"`k_shot`": self.sizes.k_shot, "`query_shot`": self.sizes.query_shot}
        wanted = [shots] if len(found) == 1 else [{name: n} for name, n in shots.items()]
        for groups, counts in zip(found, wanted, strict=True):
            fewest, needed = int(groups.counts.min()), sum(counts.values())
            if fewest < needed:
                of_what = "examples of its smallest class" if self.by_class else "its examples"
                total = f"{' + '.join(map(str, counts.values()))} = {needed}"
                raise ValueError(
                    f"the task {task.name}: {' + '.join(counts)} must be at most {fewest} "
                    f"({of_what}), got {total if len(counts) > 1 else needed}."
                )
        return found

    def _by_class(self, examples: Examples, name: str) -> Groups:
        y = examples.y.numpy()
        if not self.by_class:
            return Groups([0], np.arange(len(y)), np.array([0]), np.array([len(y)]))
        if y.ndim != 1 or y.dtype.kind != "i":
            raise ValueError(
                f"the task {name}: `y` must be integer class numbers [examples] where `n_way` is "
                f"given, got {examples.y.dtype} {list(y.shape)}."
            )
        labels, starts, counts = np.unique(np.sort(y), return_index=True, return_counts=True)
        if self.relabel and len(labels) < self.sizes.n_way:
            raise ValueError(
                f"the task {name}: `n_way` must be at most {len(labels)} (its classes), "
                f"got {self.sizes.n_way}."
            )
        if not self.relabel and labels.tolist() != list(range(self.sizes.n_way)):
            raise ValueError(
                f"the task {name}: `y` must hold all class numbers 0 .. {self.sizes.n_way - 1} "
                f"(`n_way`) and no others, got {labels.tolist()}. `relabel` would draw classes "
                "and number them."
            )
        return Groups(labels.tolist(), np.argsort(y, kind="stable"), starts, counts)

    def _draw(self, task: TaskArrays, number: int, sizes: Sizes) -> Episode:
        groups = self.grouped(task)
        most, here = self.sizes, (self.seed, self.split, number, 1)
        classes = np.arange(most.n_way)
        if self.relabel:
            classes = choose_distinct(uniforms(*here, most.n_way), len(groups[0].counts))[0]
        shots = most.k_shot + most.query_shot
        draws = uniforms(*here, most.n_way * shots, stream=1).reshape(most.n_way, shots)
        if len(groups) == 1:
            split = np.split(_choose(groups[0], classes, draws), [most.k_shot], axis=1)
        else:
            halves = np.split(draws, [most.k_shot], axis=1)
            split = [_choose(g, classes, half) for g, half in zip(groups, halves, strict=True)]
        parts = []
        for examples, rows, taken in zip(
            (task.sets[0], task.sets[-1]), split, sizes[1:], strict=True
        ):
            chosen = torch.from_numpy(rows[: sizes.n_way, :taken].reshape(-1))
            y = examples.y[chosen]
            if self.relabel:
                y = torch.arange(sizes.n_way).repeat_interleave(taken)
            parts += [examples.x[chosen], y]
        return Episode(*parts)


def _choose(groups: Groups, classes: Integers, draws: np.ndarray) -> Integers:
    """Distinct rows of each class, ``[classes, shots]``."""
    chosen = choose_distinct(draws, groups.counts[classes])
    return groups.rows[groups.starts[classes][:, None] + chosen]
