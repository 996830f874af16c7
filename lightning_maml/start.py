"""Where the inner loop starts, for a model that makes a part of theta_0 from the support set.

For most models theta_0 are the meta-learned weights themselves. A model may also make tensors of
them and of a task's support set, as a head for as many classes as the task has
(models/episode_head.py). These go through the inner loop as if they were parameters. Their making
is one more differentiable step before it, so the meta-gradient is that with respect to theta_0,
pulled back through the making; inner loop and sweep know nothing of it.
"""

# Annotations stay strings: torch.compile cannot evaluate those of the nested functions.
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeGuard

import torch
from torch import Tensor
from torch.func import vjp

from lightning_maml.episode import Episode
from lightning_maml.inner_loop import InnerLoop, MetaParams, Params, TaskLoss
from lightning_maml.meta_gradient import PER_TASK, MetaGradient, joint, over_tasks, summed

Start = Callable[[MetaParams, Episode], MetaParams]
"""``(meta-parameters, one task) -> the same with what is made from its support set``."""


class MakesTensors(Protocol):
    """A module with buffers that each task gets anew.

    Attributes:
        made: names of these buffers. Outside of an episode their first axis, that of the classes,
            has the size 0.
    """

    made: Sequence[str]

    def make(self, tensors: Params, x: Tensor, y: Tensor, n_way: int) -> Params:
        """They for one task: a pure function of all other tensors of the module, by name.

        Shapes: ``x [support examples, ...]``, ``y [support examples]``.
        """
        ...


def makes_tensors(model: object) -> TypeGuard[MakesTensors]:
    """`isinstance` of the protocol; that of `typing` takes as long as a small kernel."""
    return hasattr(model, "made") and callable(getattr(model, "make", None))


def classes_in(labels: Tensor) -> int:
    """Number of classes of a batch's support labels, ``[tasks, examples]``: the same in each task.

    Waits for an accelerator.

    Raises:
        ValueError: unless they are the integers 0 .. n-1, each at least once in each task.
    """
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"`support_y` must hold integer class numbers to make a head from, got {labels.dtype}."
        )
    n_way = int(labels.max()) + 1
    per_task = labels.flatten(1).unsqueeze(-1) == torch.arange(n_way, device=labels.device)
    if labels.min() < 0 or not per_task.any(dim=1).all():
        raise ValueError(
            f"`support_y` must hold each of the class numbers 0 .. {n_way - 1} in each task, to "
            f"make a head from, got {[sorted(set(task)) for task in labels.tolist()][:3]}."
        )
    return n_way


def started(model: object, adapted: Sequence[str], constants: Params, n_way: int | None) -> Start:
    """How the tasks of an episode with `n_way` classes start; ``None``: with what is learned alone.

    Of what is made, `adapted` names what the inner loop changes; `constants` are the module's
    frozen parameters and buffers.
    """
    if not makes_tensors(model) or n_way is None:
        return lambda meta, task: meta

    def start(meta: MetaParams, task: Episode) -> MetaParams:
        known = {**meta.adapted, **meta.held, **constants}
        made = model.make(known, task.support_x, task.support_y, n_way)
        changed = {name: made[name] for name in adapted}
        still = {name: tensor for name, tensor in made.items() if name not in changed}
        return meta._replace(adapted=meta.adapted | changed, held=meta.held | still)

    return start


def through_start(
    derive: Callable[[MetaParams, Episode], MetaGradient], start: Start
) -> Callable[[MetaParams, Episode], MetaGradient]:
    """`derive`, the meta-gradient of a task, from where it starts, pulled back to what is learned.

    Exact also in first order: only inner gradients are constants there.
    """

    def from_start(meta: MetaParams, task: Episode) -> MetaGradient:
        begun, pull_back = vjp(lambda meta: start(meta, task), meta)  # type: ignore[misc]
        result = derive(begun, task)
        return result._replace(grads=pull_back(result.grads)[0])

    return from_start


def per_chunk(
    derivation: str,
    loop: InnerLoop,
    loss: TaskLoss,
    start: Start | None,
    tasks_at_once: int,
    replay: bool,
) -> Callable[[MetaParams, Episode], MetaGradient]:
    """``(meta, chunk) -> sums over its tasks``, by one of `DERIVATIONS`; `replay`: see `sweep`."""
    if derivation == "joint":
        return joint(loop, loss, start, tasks_at_once)
    per_task: Callable[[MetaParams, Episode], MetaGradient]
    per_task = partial(PER_TASK[derivation], loop, loss, replay=replay)
    if start is not None:
        per_task = through_start(per_task, start)
    return lambda meta, chunk: summed(over_tasks(per_task, tasks_at_once)(meta, chunk))
