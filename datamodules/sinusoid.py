"""Sinusoid regression (Sec. 5.1): y = A sin(x - phase). Needs no files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from datamodules.drawn_ahead import DrawnAhead
from datamodules.episode_loader import TaskSampler
from datamodules.episodic import EpisodicDataModule
from datamodules.sampling import SPLITS, Floats, uniforms
from datamodules.settings import LEAST, Batches, Count, Shots, Sizes
from datamodules.varying_sizes import VaryingTasks
from lightning_maml.argument_types import check_types
from lightning_maml.episode import Episode

Range = tuple[float, float]
AHEAD = 2_000  # training tasks, about half a megabyte with 20 points each


@dataclass(frozen=True)
class SinusoidTasks:
    """Sinusoids and points on them; a task keeps its sinusoid whatever the number of points.

    Support inputs come from the range `support_x`, query inputs from `x`; `sizes` says how many.
    """

    seed: int
    split: str
    sizes: Sizes
    amplitude: Range
    phase: Range
    x: Range
    support_x: Range
    task_in_input: bool = False

    def parameters(self, first_task: int, tasks: int) -> tuple[Floats, Floats]:
        """Amplitudes and phases of consecutive tasks, each ``[tasks]``."""
        draws = uniforms(self.seed, self.split, first_task, tasks, 2)
        return _scaled(draws[:, 0], self.amplitude), _scaled(draws[:, 1], self.phase)

    def __call__(self, first_task: int, tasks: int, sizes: Sizes | None = None) -> Episode:
        """Consecutive tasks: y is ``[tasks, points, 1]`` float32, and so is x.

        With `task_in_input` x is ``[tasks, points, 3]``: the point, amplitude and phase. With
        smaller `sizes` they are the first points of the same tasks.
        """
        amplitude, phase = self.parameters(first_task, tasks)
        _, *shots = self.sizes
        _, k_shot, query_shot = sizes or self.sizes
        draws = uniforms(self.seed, self.split, first_task, tasks, sum(shots), stream=1)
        points = _scaled(draws, self.x)
        if self.support_x != self.x:
            points[:, : shots[0]] = _scaled(draws[:, : shots[0]], self.support_x)
        inputs = points.astype(np.float32)
        targets = amplitude[:, None] * np.sin(inputs - phase[:, None])
        support_x, query_x = torch.from_numpy(inputs).unsqueeze(-1).split(shots, dim=1)
        support_y, query_y = (
            torch.from_numpy(targets.astype(np.float32)).unsqueeze(-1).split(shots, dim=1)
        )
        if self.task_in_input:
            task = torch.from_numpy(np.stack([amplitude, phase], axis=-1).astype(np.float32))
            support_x, query_x = (_with_task(x, task) for x in (support_x, query_x))
        return Episode(
            support_x[:, :k_shot],
            support_y[:, :k_shot],
            query_x[:, :query_shot],
            query_y[:, :query_shot],
        )


def _with_task(x: Tensor, task: Tensor) -> Tensor:
    """``[tasks, points, 1]`` and ``[tasks, 2]`` -> ``[tasks, points, 3]``."""
    return torch.cat([x, task[:, None].expand(-1, x.shape[1], -1)], dim=-1)


@final
class Sinusoid(EpisodicDataModule):
    """Sinusoids with amplitude, phase and inputs drawn uniformly from three ranges.

    Args:
        k_shot: support points per task (the paper's K), or a range, drawn anew for each training
            batch, as in varying_sizes.py
        query_shot: query points per training task, or a range
        eval_query_shot: held-out points per validation or test task
        amplitude_range: the paper's [0.1, 5.0]
        phase_range: the paper's [0, pi]
        x_range: the paper's [-5, 5]
        support_range: part of `x_range` that the support inputs of validation and test tasks come
            from, e.g. [0, 5] for points in one half only (Sec. 5.1); ``None`` = `x_range`
        meta_batch_size: training tasks per batch (and process)
        eval_batch_size: tasks per evaluation batch
        train_batches_per_epoch: length of an epoch; the paper's run is 70 epochs of 1,000
        val_tasks: fixed validation tasks
        test_tasks: fixed test tasks (the authors' 600)
        seed: tasks are a function of (seed, split, task number) alone
        num_workers: loader processes
        task_in_input: append amplitude and phase to each input, for the paper's oracle
        eval_k_shot: support points of validation and test tasks; None for `k_shot`

    Raises:
        ValueError: naming the setting that is out of range, or missing beside a range.
    """

    def __init__(
        self,
        k_shot: Count = 10,
        query_shot: Count = 10,
        eval_query_shot: int = 100,
        amplitude_range: Range = (0.1, 5.0),
        phase_range: Range = (0.0, math.pi),
        x_range: Range = (-5.0, 5.0),
        support_range: Range | None = None,
        meta_batch_size: int = 25,
        eval_batch_size: int = 100,
        train_batches_per_epoch: int = 1000,
        val_tasks: int = 200,
        test_tasks: int = 600,
        seed: int = 0,
        num_workers: int = 0,
        task_in_input: bool = False,
        eval_k_shot: int | None = None,
    ) -> None:
        check_types(Sinusoid.__init__, locals())
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
        shots = Shots(LEAST.n_way, k_shot, query_shot, None, eval_k_shot, eval_query_shot)
        self.bounds = {split: shots.bounds(split) for split in SPLITS}
        x = _check_range("x_range", x_range)
        support_x = x if support_range is None else _check_within(support_range, x)
        self.samplers = {
            split: SinusoidTasks(
                seed=seed,
                split=split,
                sizes=self.bounds[split][1],
                amplitude=_check_range("amplitude_range", amplitude_range),
                phase=_check_range("phase_range", phase_range),
                x=x,
                support_x=x if split == "train" else support_x,
                task_in_input=task_in_input,
            )
            for split in SPLITS
        }

    def load_tasks(self) -> dict[str, TaskSampler]:
        """One sampler per split."""
        return {split: self._sampler_of(split, least) for split, (least, _) in self.bounds.items()}

    def _sampler_of(self, split: str, least: Sizes) -> TaskSampler:
        sampler = self.samplers[split]
        if least != sampler.sizes:
            return VaryingTasks(sampler, sampler.seed, split, least)
        alone = self._rank()[1] == 1 and not self.batches.num_workers
        return DrawnAhead(sampler, AHEAD) if split == "train" and alone else sampler


def _scaled(draws: Floats, bounds: Range) -> Floats:
    low, high = bounds
    return low + (high - low) * draws


def _check_range(name: str, bounds: Sequence[float]) -> Range:
    if len(bounds) != 2 or not all(map(math.isfinite, bounds)) or bounds[0] > bounds[1]:
        raise ValueError(f"`{name}` must be two finite numbers, low and high, got {bounds!r}.")
    return float(bounds[0]), float(bounds[1])


def _check_within(support_range: Sequence[float], x_range: Range) -> Range:
    low, high = _check_range("support_range", support_range)
    if not x_range[0] <= low <= high <= x_range[1]:
        raise ValueError(
            f"`support_range` must lie within `x_range`, {list(x_range)}, got {[low, high]}."
        )
    return low, high
