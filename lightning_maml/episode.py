"""An episode: the few labelled examples of some tasks, and the examples that judge them.

The one thing that data and learners share. Every tensor has a leading task axis.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor


class Episode(NamedTuple):
    """A batch of tasks (Sec. 2.1: K examples drawn from T_i, and new ones to test on).

    Shapes:
        support_x: ``[tasks, support examples, ...]``
        support_y: ``[tasks, support examples, ...]`` (class numbers: no further axes)
        query_x: ``[tasks, query examples, ...]``
        query_y: ``[tasks, query examples, ...]``
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor

    @property
    def tasks(self) -> int:
        """Number of tasks in the batch."""
        return self.support_x.shape[0]

    def to(self, device: torch.device | str) -> "Episode":
        """The same on another device; Lightning moves batches by it."""
        device = torch.device(device)
        waits = device.type in ("cpu", "mps")
        return Episode(*(part.to(device, non_blocking=not waits) for part in self))


class TaskBatch(NamedTuple):
    """Tasks whose examples the learner makes itself, by acting in them (Alg. 3).

    Shapes:
        task: ``[tasks, task_size]``, what defines each: a goal, a velocity, a direction
        key: ``[tasks, 3]``, int64: seed, number of the split and number of the task, from which
            all random numbers of a task's episodes follow
    """

    task: Tensor
    key: Tensor

    @property
    def tasks(self) -> int:
        """Number of tasks in the batch."""
        return self.task.shape[0]


class Question(NamedTuple):
    """Examples whose class is to be found, and labelled examples of all classes: one task.

    Attributes:
        support_x: ``[support examples, ...]``
        labels: the class name of each
        query_x: ``[query examples, ...]``
        files: what to call each of them
        statistics: of batch norm, see `MetaLearner.fast_adapt`
    """

    support_x: Tensor
    labels: Sequence[str]
    query_x: Tensor
    files: Sequence[str]
    statistics: Literal["support", "transductive"]


def check_episode(episode: Episode) -> Episode:
    """Check that the four tensors fit together; integer class numbers become int64.

    Raises:
        ValueError: naming the tensor, if task or example axes differ or the batch is empty.
    """
    tasks = episode.support_x.shape[0] if episode.support_x.ndim else 0
    if tasks == 0:
        raise ValueError(
            "`support_x` must be [tasks, examples, ...] with at least one task, "
            f"got shape {list(episode.support_x.shape)}."
        )
    for part in ("support", "query"):
        x, y = getattr(episode, f"{part}_x"), getattr(episode, f"{part}_y")
        for name, tensor in ((f"{part}_x", x), (f"{part}_y", y)):
            if tensor.ndim < 2 or tensor.shape[0] != tasks:
                raise ValueError(
                    f"`{name}` must be [tasks, examples, ...] with {tasks} tasks as "
                    f"`support_x` has, got shape {list(tensor.shape)}."
                )
        if x.shape[1] != y.shape[1] or x.shape[1] == 0:
            raise ValueError(
                f"`{part}_x` and `{part}_y` must hold the same number of examples per task, "
                f"at least one, got {x.shape[1]} and {y.shape[1]}."
            )
    return episode._replace(
        support_y=_integers_as_int64(episode.support_y),
        query_y=_integers_as_int64(episode.query_y),
    )


def _integers_as_int64(labels: Tensor) -> Tensor:
    is_integer = not labels.is_floating_point() and not labels.is_complex()
    return labels.to(torch.int64) if is_integer else labels
