"""The meta-objective of Algorithm 3 as a function of the meta-parameters, samples given.

theta' of a task is theta after inner steps on its samples, each step on samples of its own; the
loss and the KL divergence are those of theta' on the samples taken with it. The samples are taken
as given (docs/departures.md, "the estimator").

The Fisher matrix of what samples after adaptation, seen from theta, is J^T F J, where J is the
derivative of theta' and F that of the KL divergence at theta'. Both sides are products of the
sweep in meta_gradient.py: J u runs forward through the inner steps, J^T v back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp
from torch.utils._pytree import tree_map

from lightning_maml.episode import Episode
from lightning_maml.inner_loop import InnerLoop, MetaParams, Params, State, TaskLoss, inner_step
from lightning_maml.losses import Loss
from lightning_maml.meta_gradient import Cotangents, Kept, query_gradient, step_back, zeros_like
from lightning_maml.rl.policy_loss import mean_kl, reinforce, surrogate

Rollouts = Sequence[Episode]
"""Samples of one task: after 0, 1, ... inner steps; the last are the query."""


class Objective(NamedTuple):
    """The loss that the meta-update lowers, and the KL divergence that it keeps small."""

    loss: Tensor
    kl: Tensor


class PolicyLosses(NamedTuple):
    """The losses of one network on samples (policy_loss.py), each a `TaskLoss`."""

    inner: TaskLoss
    surrogate: TaskLoss
    kl: TaskLoss


def policy_losses(bind: Callable[[Loss], TaskLoss]) -> PolicyLosses:
    """The losses of the network that `bind` joins with a loss of its output."""
    return PolicyLosses(bind(reinforce), bind(surrogate), bind(mean_kl))


def _adapt(
    loop: InnerLoop, inner: TaskLoss, meta: MetaParams, rollouts: Rollouts
) -> tuple[Params, list[Kept]]:
    """theta' of one task, and what the way back needs."""
    theta, state = meta.adapted, loop.rule.init(meta.adapted)
    kept = []
    for step in range(loop.steps):
        after = inner_step(loop, inner, meta, theta, state, rollouts[step], step)
        kept.append(Kept(theta, state, after.grads, []))
        theta, state = after.theta, after.state
    return theta, kept


def objective(
    loop: InnerLoop, losses: PolicyLosses, meta: MetaParams, rollouts: Rollouts
) -> Objective:
    """Loss and KL divergence of one task."""
    theta, _ = _adapt(loop, losses.inner, meta, rollouts)
    x, y = rollouts[-1].query_x, rollouts[-1].query_y
    loss, output = losses.surrogate(theta, meta.held, x, y)
    return Objective(loss, mean_kl(output, y))


def gradient(
    loop: InnerLoop, inner: TaskLoss, outer: TaskLoss, meta: MetaParams, rollouts: Rollouts
) -> tuple[MetaParams, Tensor]:
    """Gradient of one task's `outer` loss after adaptation, and that loss."""
    theta, kept = _adapt(loop, inner, meta, rollouts)
    grads, (loss, _) = query_gradient(outer, theta, meta.held, rollouts[-1])
    return _back(loop, inner, meta, rollouts, kept, grads), loss


def fisher_product(
    loop: InnerLoop, losses: PolicyLosses, meta: MetaParams, rollouts: Rollouts, u: MetaParams
) -> MetaParams:
    """J^T F J u of one task."""
    theta, kept = meta.adapted, []
    state = loop.rule.init(theta)
    theta_dot, state_dot = u.adapted, tree_map(torch.zeros_like, state)
    for step in range(loop.steps):
        after, after_dot = _forward_step(
            loop, losses.inner, meta, theta, state, rollouts[step], step, u, theta_dot, state_dot
        )
        kept.append(Kept(theta, state, after[2], []))
        (theta, state, _), (theta_dot, state_dot, _) = after, after_dot
    back = _kl_product(losses.kl, theta, meta.held, rollouts[-1], theta_dot, u.held)
    return _back(loop, losses.inner, meta, rollouts, kept, back)


def _forward_step(
    loop: InnerLoop,
    inner: TaskLoss,
    meta: MetaParams,
    theta: Params,
    state: State,
    task: Episode,
    step: int,
    u: MetaParams,
    theta_dot: Params,
    state_dot: State,
) -> tuple[tuple[Params, State, Params], tuple[Params, State, Params]]:
    """An inner step's theta, state and gradients, and how they move with theta and meta."""

    def update(
        theta: Params, state: State, held: Params, alphas: Params, x: Tensor, y: Tensor
    ) -> tuple[Params, State, Params]:
        there = MetaParams(theta, held, alphas)
        after = inner_step(loop, inner, there, theta, state, Episode(x, y, x, y), step)
        return after.theta, after.state, after.grads

    x, y = task.support_x, task.support_y
    # Explicit zero tangents of the data: see meta_gradient.py.
    still = (torch.zeros_like(x), torch.zeros_like(y))
    primals = (theta, state, meta.held, meta.step_sizes, x, y)
    after, moved, *_ = jvp(update, primals, (theta_dot, state_dot, u.held, u.step_sizes, *still))
    return after, moved


def _kl_product(
    kl: TaskLoss, theta: Params, held: Params, task: Episode, theta_dot: Params, held_dot: Params
) -> tuple[Params, Params]:
    """F times a direction: Gauss-Newton, through the network's output.

    That is the whole second derivative, since where the samples were taken the KL divergence has
    its minimum.
    """
    x, y = task.query_x, task.query_y

    def output(theta: Params, held: Params, x: Tensor) -> Tensor:
        return kl(theta, held, x, y)[1]

    out_dot = jvp(output, (theta, held, x), (theta_dot, held_dot, torch.zeros_like(x)))[1]
    out, pull_back, *_ = vjp(lambda theta, held: output(theta, held, x), theta, held)

    bent = jvp(grad(mean_kl), (out, y), (out_dot, torch.zeros_like(y)))[1]
    return pull_back(bent)


def _back(
    loop: InnerLoop,
    inner: TaskLoss,
    meta: MetaParams,
    rollouts: Rollouts,
    kept: Sequence[Kept],
    query: tuple[Params, Params],
) -> MetaParams:
    """J^T times what is given with respect to theta' and the held parameters."""
    state = tuple(zeros_like(part) for part in loop.rule.init(meta.adapted))
    bar = Cotangents(*query, zeros_like(meta.step_sizes), state)
    for step in reversed(range(loop.steps)):
        bar = step_back(loop, inner, meta, rollouts[step], kept[step], step, bar)
    return MetaParams(bar.theta, bar.held, bar.step_sizes)
