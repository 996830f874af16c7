"""Trajectories before and after adaptation, where tasks are goals in the plane.

Drawn are episodes that evaluation has, made again from the same random numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lightning_maml.episode import TaskBatch
from lightning_maml.rl.environment import Environment, Floats
from lightning_maml.rl.rollout import Look
from lightning_maml.rl.trajectories import Watched
from lightning_maml.run.figures import Picture, picture

TASKS, TRAJECTORIES, COLUMNS = 4, 2, 2
PAPER_STEPS = 3  # Figure 4 has none and three
STYLES = (("C0:", 1.0, "before adaptation"), ("C1-", 0.9, "after adaptation"))

Watch = Callable[[TaskBatch, Look], list[Watched]]
Tracks = Sequence[Sequence[Floats]]
"""Positions ``[steps + 1, 2]`` in some episodes of each task."""


def figures(environment: Environment, batch: TaskBatch, watch: Watch) -> list[Picture]:
    """One figure of the first tasks; none where the environment has no positions to draw.

    `watch` gives the rollouts before and after adaptation, or one without inner steps.

    Raises:
        ValueError: if the environment's `positions` are not ``[n, 2]``.
    """
    seen = _seen(environment, batch, watch)
    return [] if seen is None else [trajectories(*seen)]


def plain_tracks(
    environment: Environment, batch: TaskBatch, watch: Watch, steps: int
) -> dict[str, Any] | None:
    """What `figures` draws as plain data: goals and tracks before and after `steps` inner steps."""
    seen = _seen(environment, batch, watch)
    if seen is None:
        return None
    goals, rollouts = seen
    numbers = dict(zip((0, steps), rollouts, strict=False))
    tasks = [
        {
            "goal": goal.tolist(),
            "tracks": {
                str(k): [track.round(4).tolist() for track in rollout[number]]
                for k, rollout in numbers.items()
            },
        }
        for number, goal in enumerate(goals)
    ]
    return {"steps": list(numbers), "tasks": tasks}


def _seen(
    environment: Environment, batch: TaskBatch, watch: Watch
) -> tuple[Floats, list[Tracks]] | None:
    """Goals of the first tasks, and tracks before and after adaptation."""
    positions = getattr(environment, "positions", None)
    if positions is None or environment.task_size != 2:
        return None
    few = TaskBatch(*(part[:TASKS].cpu() for part in batch))
    watched = watch(few, lambda _, state: np.array(positions(state)))
    return few.task.double().numpy(), [tracks(one) for one in watched]


def tracks(watched: Watched) -> Tracks:
    """The first episodes of each task, from start to end; noted are positions ``[n, 2]``."""
    tasks, streams = watched.paths.last.shape[:2]
    wanted, got = (tasks * streams, 2), watched.noted[0].shape
    if got != wanted:
        raise ValueError(f"`positions` must return [n, 2], here {list(wanted)}, got {list(got)}.")
    steps = np.stack(watched.noted).reshape(-1, tasks, streams, 2)
    lengths = watched.paths.first_lengths.tolist()
    shown = range(min(TRAJECTORIES, streams))
    return [[steps[: lengths[t][s] + 1, t, s] for s in shown] for t in range(tasks)]


def trajectories(goals: Floats, rollouts: Sequence[Tracks]) -> Picture:
    """A panel per task: its goal ``[tasks, 2]``, and tracks before and after adaptation."""
    columns = min(COLUMNS, len(goals))
    rows = -(-len(goals) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.4 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    shown = grid.flatten()
    limits = _limits([goals, *(track for one in rollouts for task in one for track in task)])
    for number, (axes, goal) in enumerate(zip(shown, goals, strict=False)):
        for one, (style, width, label) in zip(rollouts, STYLES, strict=False):
            for track in one[number]:
                (line,) = axes.plot(*track.T, style, linewidth=width)
                (start,) = axes.plot(*track[0], "ko", markerfacecolor="white")
            line.set_label(label)
        start.set_label("start")
        axes.plot(*goal, "k*", markersize=13, markeredgecolor="white", label="goal")
        axes.set_title(f"task {number}: goal ({goal[0]:.2f}, {goal[1]:.2f})", fontsize=9)
        axes.set(xlabel="x", ylabel="y", xlim=limits, ylim=limits, aspect="equal")
        axes.grid(alpha=0.3)
        axes.label_outer()
    for axes in shown[len(goals) :]:
        axes.axis("off")
    handles, labels = shown[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize="small")
    return picture(figure)


def _limits(points: Sequence[Floats]) -> tuple[float, float]:
    """One range for both axes and all panels: tasks compare, and directions are true."""
    every = np.concatenate([one.ravel() for one in points])
    every = every[np.isfinite(every)]
    low, high = float(every.min()), float(every.max())
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
