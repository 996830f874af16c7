"""Joins a policy module with the pure functions of Algorithm 3, in chunks of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.utils import parameters_to_vector
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from lightning_maml.episode import Episode
from lightning_maml.functional_model import module_tensors, second_derivatives, task_loss
from lightning_maml.inner_loop import InnerLoop, MetaParams, Params, TaskLoss, inner_step
from lightning_maml.meta_gradient import chunks
from lightning_maml.rl.meta_objective import (
    PolicyLosses,
    Rollouts,
    fisher_product,
    gradient,
    objective,
    policy_losses,
)
from lightning_maml.rl.partial_evaluation import Prepared, Split
from lightning_maml.rl.policy_loss import filled_up
from lightning_maml.rl.task_policies import TaskPolicies
from lightning_maml.rl.trpo import set_parameters

Curvature = Literal["exact", "finite_differences"]
Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class PolicyEngine:
    """A policy, and how tasks are run.

    Attributes:
        policy: a module that gives mean and log-std (policy.py).
        adapts: patterns (`fnmatch`) on parameter names: what the inner loop changes.
        tasks_at_once: tasks batched at a time; a few, so that their samples stay in the cache.
        compile: run the products through `torch.compile`.
        curvature: "exact", or "finite_differences" of the KL divergence's gradient (App. A.2).

    Raises:
        ValueError: naming the argument that is out of range.
    """

    policy: nn.Module
    adapts: Sequence[str] = ("*",)
    tasks_at_once: int = 5
    compile: bool = False
    curvature: Curvature = "exact"
    _programs: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.curvature not in get_args(Curvature):
            known = list(get_args(Curvature))
            raise ValueError(f"`curvature` must be one of {known}, got {self.curvature!r}.")
        self.meta()  # refuses patterns that match nothing

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_programs": {}}  # a copy has a module of its own

    def meta(self) -> MetaParams:
        """The meta-parameters as they are now, detached."""
        tensors = module_tensors(self.policy, self.adapts)
        adapted = {name: p.detach() for name, p in tensors.adapted.items()}
        return MetaParams(adapted, {name: p.detach() for name, p in tensors.held.items()}, {})

    def parameters(self) -> list[nn.Parameter]:
        """The module's parameters in the order of the flat vectors."""
        there = dict(self.policy.named_parameters())
        meta = self.meta()
        return [there[name] for name in (*meta.adapted, *meta.held)]

    def losses(self) -> PolicyLosses:
        """The policy's losses on samples."""
        tensors = module_tensors(self.policy, self.adapts)
        bind = partial(task_loss, self.policy, frozen=tensors.frozen, buffers=tensors.buffers)
        return policy_losses(bind)

    def initial(self, tasks: int) -> Params:
        """theta of each task before adaptation: ``[tasks, ...]`` each."""
        return {n: p.expand(tasks, *p.shape) for n, p in self.meta().adapted.items()}

    def policies(self, theta: Params) -> TaskPolicies:
        """Each task's policy with its own theta ``[tasks, ...]``, for observations on the CPU.

        Outputs have the dtype of theta.
        """
        tensors = module_tensors(self.policy, self.adapts)
        held = {n: p.detach() for n, p in tensors.held.items()}
        return TaskPolicies(self.policy, theta, {**held, **tensors.frozen, **tensors.buffers})

    def update(self, loop: InnerLoop, theta: Params, samples: Episode, step: int) -> Params:
        """theta of each task after an inner step on its samples ``[tasks, N, ...]``."""
        losses, meta = self.losses(), self.meta()

        def one(theta: Params, task: Episode) -> Params:
            return inner_step(loop, losses.inner, meta, theta, (), task, step).theta

        at_once, tasks = self.tasks_at_once, samples.tasks
        with second_derivatives(self.policy):
            parts = [
                vmap(one)(*tree_map(lambda t, i=i: t[i : i + at_once], (theta, samples)))
                for i in range(0, tasks, at_once)
            ]
        return {name: torch.cat([part[name] for part in parts]) for name in theta}

    def problem(self, loop: InnerLoop, rollouts: Rollouts, reduce: Reduce) -> MetaProblem:
        """The meta-update on samples of all tasks; `reduce` averages a vector over processes.

        The products' programs are made for one number of samples, which takes seconds. Where
        episodes end early it differs each time, so we fill up to two significant digits.
        """
        most = max(rollout.query_x.shape[1] for rollout in rollouts)
        digit = 10 ** max(len(str(most)) - 2, 0)
        n = -(-most // digit) * digit
        return MetaProblem(self, loop, [filled_up(rollout, n) for rollout in rollouts], reduce)

    def program(self, loop: InnerLoop, fixed: Any, u: MetaParams) -> Split:
        """The Fisher product of a chunk, summed over its tasks, prepared for many vectors.

        Beside it the chunk's gradient and loss, which take the same activations.
        """
        leaves = tree_flatten(fixed)[0]
        autocast = torch.is_autocast_enabled(leaves[0].device.type)
        kinds = tuple((t.shape, t.dtype, t.device) for t in leaves)
        tensors = module_tensors(self.policy, self.adapts)
        # The program holds these: others in their place, as after `.to(device)`, need their own.
        constants = (*map(id, tensors.frozen.values()), *map(id, tensors.buffers.values()))
        if (key := (loop, kinds, autocast, constants)) not in self._programs:
            losses = self.losses()

            def product(fixed: tuple[MetaParams, Rollouts], u: MetaParams) -> MetaParams:
                per_task = partial(fisher_product, loop, losses)
                products = vmap(per_task, in_dims=(None, 0, None))(*fixed, u)
                return tree_map(lambda t: t.sum(dim=0), products)

            beside = partial(gradient_sum, loop, losses, losses.surrogate)
            self._programs[key] = Split(product, fixed, u, self.compile, beside)
        return self._programs[key]


def gradient_sum(
    loop: InnerLoop, losses: PolicyLosses, outer: TaskLoss, chunk: tuple[MetaParams, Rollouts]
) -> Tensor:
    """Gradients of the `outer` loss, flat, and after them the loss; sums over a chunk's tasks."""
    per_task = vmap(partial(gradient, loop, losses.inner, outer), in_dims=(None, 0))
    grads, loss = tree_map(lambda t: t.sum(dim=0), per_task(*chunk))
    return torch.cat([parameters_to_vector(tree_flatten(grads)[0]), loss[None]])


class MetaProblem:
    """The meta-objective at the policy's present parameters, as TRPO asks for it (`Problem`)."""

    def __init__(
        self, engine: PolicyEngine, loop: InnerLoop, rollouts: Rollouts, reduce: Reduce
    ) -> None:
        self.engine, self.loop, self.reduce = engine, loop, reduce
        self.losses = engine.losses()
        self.tasks, size = rollouts[0].tasks, engine.tasks_at_once
        cut = (chunks(rollout, size) for rollout in rollouts)
        self.chunks: list[Rollouts] = list(zip(*cut, strict=True))
        self.spec = tree_flatten(engine.meta())[1]
        self._prepared: list[tuple[Split, Prepared]] = []

    def gradient(self) -> tuple[Tensor, float]:
        """Gradient of the surrogate loss, and that loss; means over all tasks.

        With exact curvature it prepares the products, too: the parameters must not change between.
        """
        if self.engine.curvature == "finite_differences":
            both = self._gradient_of(self.losses.surrogate)
        else:
            self._prepared = []
            self._prepare()
            total = torch.stack([prepared.aside for _, prepared in self._prepared]).sum(dim=0)
            both = self.reduce(total / self.tasks)
        return both[:-1], float(both[-1])

    def loss_and_kl(self) -> tuple[float, float]:
        """Surrogate loss and KL divergence, means over all tasks."""
        per_task = vmap(partial(objective, self.loop, self.losses), in_dims=(None, 0))
        both = self._mean(lambda meta, chunk: torch.stack(per_task(meta, chunk)).sum(dim=1))
        return float(both[0]), float(both[1])

    def fisher_product(self, direction: Tensor) -> Tensor:
        """Second derivative of the KL divergence times `direction`."""
        if self.engine.curvature == "finite_differences":
            return self._difference(direction)
        self._prepare()
        u, total = self._meta(direction), torch.zeros_like(direction)
        with second_derivatives(self.engine.policy):
            for split, prepared in self._prepared:
                total += parameters_to_vector(tree_flatten(split.apply(prepared, u))[0])
        return self.reduce(total / self.tasks)

    def _prepare(self) -> None:
        if self._prepared:
            return
        meta = self.engine.meta()
        with second_derivatives(self.engine.policy):
            for chunk in self.chunks:
                split = self.engine.program(self.loop, (meta, chunk), meta)
                self._prepared.append((split, split.prepare((meta, chunk))))

    def _difference(self, direction: Tensor) -> Tensor:
        """(grad KL(theta + eps u) - grad KL(theta - eps u)) / 2 eps, eps = 1 / norm(theta)."""
        parameters = self.engine.parameters()
        old = [p.detach().clone() for p in parameters]
        theta = parameters_to_vector(old)
        eps = 1 / (theta.norm() + 1e-8)
        sides = []
        for sign in (1, -1):
            set_parameters(parameters, theta + sign * eps * direction)
            sides.append(self._gradient_of(self.losses.kl)[:-1])
        for parameter, value in zip(parameters, old, strict=True):
            parameter.copy_(value)
        return (sides[0] - sides[1]) / (2 * eps)

    def _gradient_of(self, outer: TaskLoss) -> Tensor:
        """Mean over all tasks, and after it the loss."""
        return self._mean(lambda *chunk: gradient_sum(self.loop, self.losses, outer, chunk))

    def _mean(self, chunk_sum: Callable[[MetaParams, Rollouts], Tensor]) -> Tensor:
        meta = self.engine.meta()
        with second_derivatives(self.engine.policy):
            total = sum(chunk_sum(meta, chunk) for chunk in self.chunks)
        assert isinstance(total, Tensor)
        return self.reduce(total / self.tasks)

    def _meta(self, vector: Tensor) -> MetaParams:
        leaves = tree_flatten(self.engine.meta())[0]
        parts = vector.split([leaf.numel() for leaf in leaves])
        shaped = [part.view_as(leaf) for part, leaf in zip(parts, leaves, strict=True)]
        return tree_unflatten(shaped, self.spec)
