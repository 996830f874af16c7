"""Inner loop (Algorithm 1, lines 5-6; Algorithm 2): theta -> theta'.

Knows parameters and a loss. Knows nothing of modules, Lightning or devices.
See meta_gradient.py for what differentiates through it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor
from torch.func import grad_and_value

from lightning_maml.episode import Episode
from lightning_maml.inner_rules import SGD, InnerRule
from lightning_maml.inner_rules import Params as Params  # from here for all others
from lightning_maml.inner_rules import State as State
from lightning_maml.step_sizes import StepSizes


class MetaParams(NamedTuple):
    """What the meta-update learns, by parameter name.

    Attributes:
        adapted: initial weights that the inner loop changes (theta).
        held: initial weights that it leaves alone; they still get a meta-gradient.
        step_sizes: learned inner step sizes, see `StepSizes.initial`; empty if fixed.
    """

    adapted: Params
    held: Params
    step_sizes: Params


TaskLoss = Callable[[Params, Params, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(adapted, held, x, y) -> (loss, output)`` of one task, loss scalar."""


@dataclass(frozen=True)
class InnerLoop:
    """The settings of the inner loop.

    Attributes:
        steps: number of inner updates.
        step_sizes: alpha.
        first_order: take the inner gradient as a constant (Sec. 5.2, "first-order").
        rule: the inner update.
        step_weights: multi-step loss (MAML++): the weight of the query loss after each of the
            `steps` updates; ``None`` = Eq. 1, the loss after the last one alone.

    Raises:
        ValueError: if `steps` is negative or `step_weights` has another length.
    """

    steps: int
    step_sizes: StepSizes
    first_order: bool = False
    rule: InnerRule = field(default=SGD)
    step_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"`inner_steps` must be >= 0, got {self.steps}.")
        if self.step_weights is None:
            return
        object.__setattr__(self, "step_weights", tuple(self.step_weights))  # a key of programs
        if len(self.step_weights) != self.steps:
            raise ValueError(
                f"`step_weights` must have one weight for each of the {self.steps} inner steps, "
                f"got {len(self.step_weights)}."
            )

    def query_weight(self, updates: int) -> float:
        """Weight of the query loss after `updates` inner updates in the meta-loss."""
        if self.step_weights is None or self.steps == 0:
            return float(updates == self.steps)
        return self.step_weights[updates - 1] if updates else 0.0

    def update(
        self, theta: Params, grads: Params, state: State, step_sizes: Params, step: int
    ) -> tuple[Params, State]:
        """One inner update, given the gradients at `theta`."""
        return self.rule.update(
            theta, grads, state, lambda name: self.step_sizes.at(step_sizes, name, step)
        )


class InnerStep(NamedTuple):
    """What one inner update came from and led to; a pytree of tensors."""

    theta: Params
    state: State
    grads: Params
    support_loss: Tensor


def inner_step(
    loop: InnerLoop,
    loss: TaskLoss,
    meta: MetaParams,
    theta: Params,
    state: State,
    task: Episode,
    step: int,
) -> InnerStep:
    """One inner update on the support set of `task` (tensors without the task axis).

    Returns theta_{step+1} and its state, with the gradients and the loss at theta_step.
    """
    grads, (support_loss, _) = grad_and_value(loss, has_aux=True)(
        theta, meta.held, task.support_x, task.support_y
    )
    if loop.first_order:
        grads = {name: g.detach() for name, g in grads.items()}
    theta, state = loop.update(theta, grads, state, meta.step_sizes, step)
    return InnerStep(theta, state, grads, support_loss)


def adapt(loop: InnerLoop, loss: TaskLoss, meta: MetaParams, task: Episode) -> Iterator[Params]:
    """Yield theta_0 .. theta_steps: the weights before and after each inner update.

    `task` is one task, its tensors without the task axis.
    """
    theta, state = meta.adapted, loop.rule.init(meta.adapted)
    yield theta
    for step in range(loop.steps):
        theta, state, _, _ = inner_step(loop, loss, meta, theta, state, task, step)
        yield theta
