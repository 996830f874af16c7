"""Tasks of reinforcement learning (Sec. 5.3): goals, velocities, directions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from datamodules.episode_loader import TaskSampler
from datamodules.episodic import EpisodicDataModule
from datamodules.sampling import SPLITS, Floats, uniforms
from datamodules.settings import Batches
from lightning_maml.argument_types import check_types
from lightning_maml.episode import TaskBatch


@dataclass(frozen=True)
class DrawnTasks:
    """Task vectors, each number uniform between `low` and `high`, or one of `choices`."""

    seed: int
    split: str
    low: Floats
    high: Floats
    choices: Floats | None

    def __call__(self, first_task: int, tasks: int) -> TaskBatch:
        """Consecutive tasks: task ``[tasks, task_size]`` float32, key ``[tasks, 3]``."""
        if self.choices is not None:
            place = uniforms(self.seed, self.split, first_task, tasks, 1)[:, 0]
            drawn = self.choices[(place * len(self.choices)).astype(np.int64)]
        else:
            place = uniforms(self.seed, self.split, first_task, tasks, len(self.low))
            drawn = self.low + (self.high - self.low) * place
        key = np.empty((tasks, 3), dtype=np.uint64)
        key[:, 0], key[:, 1] = self.seed, SPLITS[self.split]
        key[:, 2] = np.arange(first_task, first_task + tasks)
        return TaskBatch(
            torch.from_numpy(drawn.astype(np.float32)), torch.from_numpy(key.view(np.int64))
        )


@final
class RLTasks(EpisodicDataModule):
    """Task vectors drawn uniformly: from a box, or from a few choices.

    Args:
        low: smallest value of each number of a task vector, e.g. [-0.5, -0.5] for goals
        high: largest
        choices: the task vectors there are instead, e.g. [[-1], [1]] for two directions
        meta_batch_size: training tasks per batch (and process)
        eval_batch_size: tasks per evaluation batch
        train_batches_per_epoch: length of an epoch
        val_tasks: fixed validation tasks
        test_tasks: fixed test tasks (the paper's 40)
        seed: tasks, and what happens in them, follow from (seed, split, task number) alone
        num_workers: loader processes

    Raises:
        ValueError: naming the setting that is out of range.
    """

    def __init__(
        self,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
        choices: Sequence[Sequence[float]] | None = None,
        meta_batch_size: int = 40,
        eval_batch_size: int = 40,
        train_batches_per_epoch: int = 10,
        val_tasks: int = 40,
        test_tasks: int = 40,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_types(RLTasks.__init__, locals())
        super().__init__(
            Batches(
                meta_batch_size=meta_batch_size,
                eval_batch_size=eval_batch_size,
                train_batches_per_epoch=train_batches_per_epoch,
                val_tasks=val_tasks,
                test_tasks=test_tasks,
                seed=seed,
                num_workers=num_workers,
            )
        )
        self.save_hyperparameters()
        bounds = _check_box(low, high) if choices is None else (np.empty(0), np.empty(0))
        rows = None if choices is None else _check_choices(choices, low, high)
        self.samplers = {split: DrawnTasks(seed, split, *bounds, rows) for split in SPLITS}

    def load_tasks(self) -> dict[str, TaskSampler]:
        """Nothing to read."""
        return dict(self.samplers)


def _check_box(low: Sequence[float] | None, high: Sequence[float] | None) -> tuple[Floats, Floats]:
    if low is None or high is None:
        raise ValueError("`low` and `high`, or `choices`, must be given.")
    box = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if box[0].ndim != 1 or box[0].shape != box[1].shape or not box[0].size:
        raise ValueError(f"`low` and `high` must be lists of one length, got {low} and {high}.")
    if not np.isfinite(box).all() or (box[0] > box[1]).any():
        raise ValueError(f"`low` must not be above `high`, both finite, got {low} and {high}.")
    return box


def _check_choices(choices: Sequence[Sequence[float]], low: object, high: object) -> Floats:
    if low is not None or high is not None:
        raise ValueError("`low` and `high` must be left out where `choices` are given.")
    sizes = {len(choice) for choice in choices}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(f"`choices` must be task vectors of one length, got {choices}.")
    rows = np.asarray(choices, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"`choices` must be finite numbers, got {choices}.")
    return rows
