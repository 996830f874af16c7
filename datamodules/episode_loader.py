"""Batches of tasks by number, the order in which training takes them, and the loader.

Batch i of B tasks holds the tasks i * B .. (i + 1) * B - 1. Training never takes a batch twice:
batch i of epoch e is number e * (batches per epoch) + i.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from lightning_maml.episode import Episode, TaskBatch

# (first task, number of tasks) -> their episode, or the tasks alone where the learner acts in them
TaskSampler = Callable[[int, int], Episode | TaskBatch]


class EpisodeBatches(Dataset[Episode | TaskBatch]):
    """Batch i of consecutive tasks, starting at `first_task`.

    With `tasks` given there are so many, and the last batch may be smaller; without, the batches
    never end and `length` is what an epoch takes.
    """

    def __init__(
        self,
        sampler: TaskSampler,
        batch_size: int,
        *,
        length: int | None = None,
        first_task: int = 0,
        tasks: int | None = None,
    ) -> None:
        assert (length is None) != (tasks is None)
        self.sampler = sampler
        self.batch_size = batch_size
        self.first_task = first_task
        self.tasks = tasks
        self.length = length if length is not None else -(-(tasks or 0) // batch_size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Episode | TaskBatch:
        before = number * self.batch_size
        size = self.batch_size
        if self.tasks is not None:
            size = min(size, self.tasks - before)
            if number < 0 or size <= 0:
                raise IndexError(f"batch {number} of {self.length}")
        return self.sampler(self.first_task + before, size)


class TrainingOrder(DistributedSampler[int]):
    """Batch numbers of one rank: step s of w ranks takes s * w + rank, so that the ranks together
    go through the tasks of a single process with w times the batch.

    Goes on with the next epoch whenever it is iterated, or where `set_epoch` says; once resumed
    it counts for itself, because Lightning counts the epoch of a checkpoint that was written at
    the epoch's end twice. It is a DistributedSampler only because Lightning replaces any other
    under DDP.
    """

    def __init__(self, batches: EpisodeBatches, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(batches, num_replicas=ranks, rank=rank, shuffle=False)
        self.length = len(batches)
        self.taken = 0  # of epoch `self.epoch`; what is left of it comes next
        self.resumed = False

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        epoch, taken = self.epoch, self.taken
        self.epoch, self.taken = epoch + 1, 0
        for step in range(epoch * self.length + taken, (epoch + 1) * self.length):
            yield step * self.num_replicas + self.rank

    def set_epoch(self, epoch: int) -> None:
        """The epoch that comes next, from its beginning."""
        if not self.resumed and epoch != self.epoch:
            self.epoch, self.taken = epoch, 0

    def resume(self, epoch: int, taken: int) -> None:
        """Go on after `taken` batches of an epoch, with the next one if it was over."""
        over = taken >= self.length
        self.epoch, self.taken = epoch + over, 0 if over else taken
        self.resumed = True


class TrainingLoader(DataLoader[Episode | TaskBatch]):
    """A loader that can stop anywhere and go on exactly there (Lightning saves its state).

    Nothing is drawn before the first `next`, because Lightning calls `iter` first and
    `set_epoch` afterwards.
    """

    _epoch = 0
    _taken = 0

    def __iter__(self) -> Iterator[Episode | TaskBatch]:  # type: ignore[override]
        order = self.sampler
        self._epoch, self._taken = getattr(order, "epoch", 0), getattr(order, "taken", 0)
        # Without workers torch's iterator would only add its time to each batch.
        batches = super().__iter__() if self.num_workers else map(self.dataset.__getitem__, order)
        for episode in batches:
            self._taken += 1
            yield episode

    def state_dict(self) -> dict[str, Any]:
        """The epoch under way and the number of its batches that were handed out."""
        return {"epoch": self._epoch, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that `state` counts, with the next epoch if it was over."""
        order = self.sampler
        if isinstance(order, TrainingOrder):
            order.resume(state["epoch"], state["taken"])
            self._epoch, self._taken = order.epoch, order.taken


def training_loader(
    sampler: TaskSampler, batch_size: int, length: int, rank: int, ranks: int, num_workers: int
) -> TrainingLoader:
    """Endless tasks in epochs of `length` batches, this rank's share of them."""
    batches = EpisodeBatches(sampler, batch_size, length=length)
    order = TrainingOrder(batches, rank, ranks)
    return TrainingLoader(batches, sampler=order, **_loading(num_workers))


def evaluation_loader(
    sampler: TaskSampler, batch_size: int, tasks: int, rank: int, ranks: int, num_workers: int
) -> DataLoader[Episode | TaskBatch]:
    """The same `tasks` tasks each time; the ranks take consecutive, nearly equal shares."""
    first, end = tasks * rank // ranks, tasks * (rank + 1) // ranks
    batches = EpisodeBatches(sampler, batch_size, first_task=first, tasks=end - first)
    # One replica: the share is taken already, and Lightning leaves a DistributedSampler alone.
    in_order: DistributedSampler[int] = DistributedSampler(
        batches, num_replicas=1, rank=0, shuffle=False
    )
    return DataLoader(batches, sampler=in_order, **_loading(num_workers))


def _loading(num_workers: int) -> dict[str, Any]:
    """An item is a whole batch; a generator of its own leaves the global random state alone."""
    return {"batch_size": None, "num_workers": num_workers, "generator": torch.Generator()}
