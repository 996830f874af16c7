"""Meta-gradient (Eq. 1; Algorithm 1, line 8): three derivations of the same thing.

`sweep`, the default, is an adjoint sweep with forward-over-reverse products (the idea of
MixFlow-MG, Kemaev et al., ICML 2025). With inner weights theta_0 .. theta_K and a_k the step
sizes,

    v = grad L_query(theta_K)
    for k = K-1 .. 0:   dL/d a_k = - v * g_k,   v <- v - H_k (a_k * v)

where H_k u is a directional derivative of the inner gradient at theta_k. Only one inner step's
activations are alive at any time, so memory does not grow with the number of inner steps; what
is kept are the weights theta_0 .. theta_K, in first order with plain SGD not even these.
`unrolled` is reverse mode through the whole loop: the reference, and the way for operators that
have no forward-mode derivative. `joint` is reverse mode through the loops of all tasks of a chunk
at once, for the operators that it is right for (joint_operators.py).
"""

# Annotations stay strings: torch.compile cannot evaluate those of the nested functions.
from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vjp, vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from lightning_maml.episode import Episode
from lightning_maml.inner_loop import InnerLoop, MetaParams, Params, State, TaskLoss, inner_step
from lightning_maml.random_state import random_state, set_random_state

# torch imports this at the first jvp, and its own use of torch.jit.script then warns the user.
with contextlib.suppress(ImportError), warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    import torch._decomp.decompositions_for_jvp


class TaskReport(NamedTuple):
    """What is worth logging of each task; a pytree of tensors.

    Shapes (of one task: without the task axis):
        support_loss: ``[tasks]``, before adaptation
        query_loss: ``[tasks]``, after adaptation
        query_output: ``[tasks, query examples, ...]``, after adaptation
    """

    support_loss: Tensor
    query_loss: Tensor
    query_output: Tensor


class MetaGradient(NamedTuple):
    """A meta-loss, its gradient with respect to the meta-parameters, and the tasks' reports."""

    loss: Tensor
    grads: MetaParams
    report: TaskReport


PerTask = Callable[..., MetaGradient]


def unrolled(
    loop: InnerLoop, loss: TaskLoss, meta: MetaParams, task: Episode, replay: bool
) -> MetaGradient:
    """Meta-gradient of one task by reverse mode through the unrolled inner loop."""

    grads, (total, report) = grad_and_value(partial(_unrolled_loss, loop, loss), has_aux=True)(
        meta, task
    )
    return MetaGradient(total, grads, report)


def _unrolled_loss(
    loop: InnerLoop, loss: TaskLoss, meta: MetaParams, task: Episode
) -> tuple[Tensor, TaskReport]:
    theta, state = meta.adapted, loop.rule.init(meta.adapted)
    total: Tensor | float = 0.0
    support_losses = []
    for step in range(loop.steps):
        theta, state, _, support_loss = inner_step(loop, loss, meta, theta, state, task, step)
        support_losses.append(support_loss)
        weight = loop.query_weight(step + 1)
        if weight and step + 1 < loop.steps:
            total = total + weight * loss(theta, meta.held, task.query_x, task.query_y)[0]
    query_loss, output = loss(theta, meta.held, task.query_x, task.query_y)
    total = total + loop.query_weight(loop.steps) * query_loss
    return total, TaskReport((support_losses or [query_loss])[0], query_loss, output)


def joint(
    loop: InnerLoop,
    loss: TaskLoss,
    start: Callable[[MetaParams, Episode], MetaParams] | None,
    tasks_at_once: int,
) -> Callable[[MetaParams, Episode], MetaGradient]:
    """Sums over a chunk's tasks, by reverse mode through the inner loops of all of them at once.

    What the tasks share stays dense, and of their sum only one derivative is taken. `start` gives
    where a task's inner loop starts, if not at the meta-parameters (start.py).
    """

    def of_task(meta: MetaParams, task: Episode) -> tuple[Tensor, TaskReport]:
        return _unrolled_loss(loop, loss, start(meta, task) if start else meta, task)

    each = over_tasks(of_task, tasks_at_once)

    def total(meta: MetaParams, chunk: Episode) -> tuple[Tensor, TaskReport]:
        losses, report = each(meta, chunk)
        return losses.sum(), report

    def derive(meta: MetaParams, chunk: Episode) -> MetaGradient:
        if torch.compiler.is_compiling():
            grads, (value, report) = grad_and_value(total, has_aux=True)(meta, chunk)
            return MetaGradient(value, grads, report)
        # `grad` of torch.func keeps the graph of what it differentiates; nobody needs it here.
        with torch.inference_mode(False), torch.enable_grad():
            meta, chunk = tree_map(_for_autograd, (meta, chunk))
            leaves, spec = tree_flatten(meta)
            leaves = [leaf.detach().requires_grad_() for leaf in leaves]
            value, report = total(tree_unflatten(leaves, spec), chunk)
            grads = torch.autograd.grad(value, leaves, materialize_grads=True)
        return MetaGradient(
            value.detach(), tree_unflatten(grads, spec), tree_map(torch.detach, report)
        )

    return derive


def _for_autograd(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor


class Kept(NamedTuple):
    """What the way back needs of an inner step."""

    theta: Params
    state: State
    grads: Params
    random: list[Tensor]


def sweep(
    loop: InnerLoop, loss: TaskLoss, meta: MetaParams, task: Episode, replay: bool
) -> MetaGradient:
    """Meta-gradient of one task by the adjoint sweep (see the head of this file).

    With `replay`, each inner gradient is taken with the same random numbers both times, so that
    a stochastic layer (dropout) draws the same mask.
    """
    device = task.support_x.device
    # A linear rule has the same derivative everywhere; that of the inner gradient is at theta.
    needs_grads = bool(meta.step_sizes) or not loop.rule.linear
    needs_theta = needs_grads or not loop.first_order
    theta, state = meta.adapted, loop.rule.init(meta.adapted)
    steps: list[Kept] = []
    support_losses: list[Tensor] = []
    seeds: dict[int, tuple[Params, Params]] = {}  # weighted grad L_query(theta_k), k < K
    total: Tensor | float = 0.0
    for step in range(loop.steps):
        random = random_state(device) if replay else []
        after = inner_step(loop, loss, meta, theta, state, task, step)
        kept = theta if needs_theta else meta.adapted
        steps.append(Kept(kept, state, after.grads if needs_grads else kept, random))
        support_losses.append(after.support_loss)
        theta, state = after.theta, after.state
        weight = loop.query_weight(step + 1)
        if weight and step + 1 < loop.steps:
            grads, (query_loss, _) = query_gradient(loss, theta, meta.held, task)
            seeds[step + 1] = (_scale(grads[0], weight), _scale(grads[1], weight))
            total = total + weight * query_loss

    grads, (query_loss, output) = query_gradient(loss, theta, meta.held, task)
    weight = loop.query_weight(loop.steps)
    bar = Cotangents(
        _scale(grads[0], weight), _scale(grads[1], weight), zeros_like(meta.step_sizes),
        tuple(zeros_like(part) for part in state),
    )  # fmt: skip
    end = random_state(device) if replay else []
    for step in reversed(range(loop.steps)):
        bar = step_back(loop, loss, meta, task, steps.pop(), step, bar)
        if step in seeds:
            bar = bar._replace(
                theta=_add(bar.theta, seeds[step][0]), held=_add(bar.held, seeds[step][1])
            )
    if replay:
        set_random_state(end, device)
    return MetaGradient(
        total + weight * query_loss,
        at_the_start(loop, meta, bar),
        TaskReport((support_losses or [query_loss])[0], query_loss, output),
    )


class Cotangents(NamedTuple):
    """Derivatives of the meta-loss: with respect to theta_k, and so far to what all steps share."""

    theta: Params
    held: Params
    step_sizes: Params
    state: State


def step_back(
    loop: InnerLoop,
    loss: TaskLoss,
    meta: MetaParams,
    task: Episode,
    kept: Kept,
    step: int,
    bar: Cotangents,
) -> Cotangents:
    """From the cotangents after inner step `step` to those before it."""
    update = partial(loop.update, step=step)
    pull_back = vjp(update, kept.theta, kept.grads, kept.state, meta.step_sizes)[1]
    theta, grads, state, step_sizes = pull_back((bar.theta, bar.state))
    held = bar.held
    if not loop.first_order:
        if kept.random:
            set_random_state(kept.random, task.support_x.device)
        product = _gradient_derivative(loss, kept.theta, meta.held, task, direction=grads)
        theta, held = _add(theta, product[0]), _add(held, product[1])
    return Cotangents(theta, held, _add(bar.step_sizes, step_sizes), state)


def at_the_start(loop: InnerLoop, meta: MetaParams, bar: Cotangents) -> MetaParams:
    """The meta-gradient: cotangents before the first inner step, with the initial state's."""
    theta = bar.theta
    if bar.state:
        theta = _add(theta, vjp(loop.rule.init, meta.adapted)[1](bar.state)[0])
    return MetaParams(theta, bar.held, bar.step_sizes)


def query_gradient(
    loss: TaskLoss, theta: Params, held: Params, task: Episode
) -> tuple[tuple[Params, Params], tuple[Tensor, Tensor]]:
    """Gradients with respect to theta and held; loss and output. On the query set of one task."""
    return grad_and_value(loss, argnums=(0, 1), has_aux=True)(
        theta, held, task.query_x, task.query_y
    )


def _gradient_derivative(
    loss: TaskLoss, theta: Params, held: Params, task: Episode, direction: Params
) -> tuple[Params, Params]:
    """d/d(theta, held) of <grad_theta L_support, direction>, as one forward-over-reverse product.

    By the symmetry of second derivatives it is the derivative of the gradient with respect to
    both, theta moving in `direction`. Every other floating tensor gets an explicit zero tangent:
    torch's implicit ones break mse_loss in eager mode and linear layers under torch.compile.
    """
    data = (task.support_x, task.support_y)
    still = tuple(tensor for tensor in data if tensor.is_floating_point())

    def gradients(theta: Params, held: Params, *still: Tensor) -> tuple[Params, Params]:
        given = iter(still)  # integers (tokens, class numbers) have no tangent
        x, y = (next(given) if tensor.is_floating_point() else tensor for tensor in data)
        return grad(loss, argnums=(0, 1), has_aux=True)(theta, held, x, y)[0]

    primals = (theta, held, *still)
    tangents = (direction, zeros_like(held), *(torch.zeros_like(tensor) for tensor in still))
    return jvp(gradients, primals, tangents)[1]


def _add(a: Params, b: Params) -> Params:
    return {name: a[name] + b[name] for name in a}


def _scale(a: Params, factor: float) -> Params:
    return a if factor == 1.0 else {name: factor * tensor for name, tensor in a.items()}


def zeros_like(a: Params) -> Params:
    """Zeros of the same names, shapes and dtypes."""
    return {name: torch.zeros_like(tensor) for name, tensor in a.items()}


Derivation = Literal["sweep", "unrolled", "joint", "auto"]
DERIVATIONS = ("sweep", "unrolled", "joint")
PER_TASK: dict[str, PerTask] = {"sweep": sweep, "unrolled": unrolled}


def over_tasks(per_task: Callable[..., Any], tasks_at_once: int) -> Callable[..., Any]:
    """`per_task(meta, task)` for one task, made to take the tasks of a chunk (leading axis).

    `per_task` takes the derivatives but for `joint`: outside of `vmap`, torch 2.14's of layer norm
    are wrong.
    One at a time is not batched at all, so that models without a vmap rule work.
    """
    if tasks_at_once > 1:
        return vmap(per_task, in_dims=(None, 0), randomness="different")

    def single(meta: MetaParams, task: Episode) -> Any:
        # Copies, which take next to nothing: in a compiled program views have no tangents that
        # can be laid out anew.
        result = per_task(meta, Episode(*(tensor[0].clone() for tensor in task)))
        return tree_map(lambda tensor: tensor[None], result)

    return single


def chunks(episode: Episode, tasks_at_once: int) -> list[Episode]:
    """The episode cut along its task axis; the last chunk may be smaller."""
    if episode.tasks <= tasks_at_once:
        return [episode]
    return [
        Episode(*(tensor[first : first + tasks_at_once] for tensor in episode))
        for first in range(0, episode.tasks, tasks_at_once)
    ]


def summed(per_tasks: MetaGradient) -> MetaGradient:
    """The meta-losses and meta-gradients of a chunk, summed over its tasks; reports as they are."""
    loss, grads = tree_map(lambda tensor: tensor.sum(dim=0), (per_tasks.loss, per_tasks.grads))
    return MetaGradient(loss, grads, per_tasks.report)


def share_of_mean(sums: MetaGradient, tasks: int) -> MetaGradient:
    """What a chunk, of which these are the sums, adds to the means over `tasks` tasks."""
    loss, grads = tree_map(lambda tensor: tensor / tasks, (sums.loss, sums.grads))
    return MetaGradient(loss, grads, sums.report)


def mean_over_tasks(
    share: Callable[[Episode], MetaGradient], episode: Episode, tasks_at_once: int
) -> MetaGradient:
    """Mean of the tasks' meta-losses and meta-gradients, taken in chunks of `tasks_at_once`.

    Eq. 1 sums over tasks; with the mean, the meta step size means the same for any number.
    `share` gives the `share_of_mean` of a chunk.
    """
    parts = map(share, chunks(episode, tasks_at_once))  # one after the other
    loss, grads, report = next(parts)
    reports = [report]
    for part in parts:
        loss, grads = tree_map(torch.add, (loss, grads), (part.loss, part.grads))
        reports.append(part.report)
    if len(reports) > 1:
        report = TaskReport(*map(torch.cat, zip(*reports, strict=True)))
    return MetaGradient(loss, grads, report)
