"""What `test` keeps of single tasks, for Figures 2, 4 and 7: the first ones.

Knows episodes and outputs. Knows nothing of figures; lightning_maml/paper reads the file.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_maml.episode import Episode, TaskBatch

TASKS = 20
DIGITS = 6
STEPS = (0, 1, 10)  # those that the paper draws; the last step is kept as well


class FirstTasks:
    """Collects the first `TASKS` tasks of a test.

    Processes take consecutive shares of the tasks (datamodules/episodic.py), so the first process
    has the first ones; where its share is smaller than `TASKS`, that share is all there is.
    """

    def __init__(self) -> None:
        self._parts: list[Episode | TaskBatch] = []
        self._tasks = 0

    def add(self, batch: Episode | TaskBatch) -> None:
        """Keep what is still missing of a batch: tasks to act in, regressions of one number."""
        missing = TASKS - self._tasks
        if missing > 0 and (isinstance(batch, TaskBatch) or drawable(batch)):
            part = type(batch)(*(values[:missing] for values in batch))
            self._parts.append(part)
            self._tasks += part.tasks

    def take(self) -> Episode | TaskBatch | None:
        """What was collected, None if nothing; the next test starts anew."""
        parts, self._parts, self._tasks = self._parts, [], 0
        if not parts:
            return None
        return type(parts[0])(*(torch.cat(values) for values in zip(*parts, strict=True)))


def drawable(episode: Episode) -> bool:
    """Whether an episode is a regression of one number on one number.

    >>> x, y = torch.zeros(2, 5, 1), torch.zeros(2, 5, 1)
    >>> drawable(Episode(x, y, x, y)), drawable(Episode(x.expand(2, 5, 3), y, x, y))
    (True, False)
    """
    numbers = all(part.shape[2:].numel() == 1 for part in episode)
    return numbers and episode.query_y.is_floating_point()


def fits(episode: Episode, outputs: Tensor) -> dict[str, Any] | None:
    """The fits of an episode as plain data; None where outputs are not one number each.

    Query points are sorted by their inputs; outputs that are not finite become None later
    (provenance.plain).

    Shapes: ``outputs [inner steps + 1, tasks, query examples, 1]``.
    """
    if outputs.shape[1:] != episode.query_y.shape:
        return None
    steps = kept_steps(len(outputs) - 1)
    tasks = []
    for t in range(episode.tasks):
        sx, sy, qx, qy = (part[t].flatten().double().cpu() for part in episode)
        x, order = qx.sort()
        curves = {str(k): _numbers(outputs[k, t].flatten().double().cpu()[order]) for k in steps}
        tasks.append(
            {
                "support_x": _numbers(sx),
                "support_y": _numbers(sy),
                "query_x": _numbers(x),
                "query_y": _numbers(qy[order]),
                "outputs": curves,
            }
        )
    return {"steps": steps, "tasks": tasks}


def kept_steps(last: int) -> list[int]:
    """Which numbers of inner steps are kept of 0 .. `last`.

    >>> kept_steps(10), kept_steps(5), kept_steps(0)
    ([0, 1, 10], [0, 1, 5], [0])
    """
    kept: Sequence[int] = sorted({*(step for step in STEPS if step <= last), last})
    return list(kept)


def _numbers(values: Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
