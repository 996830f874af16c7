"""TRPO (Schulman et al. 2015) as an optimizer: the meta-optimizer of Algorithm 3 (App. A.2)."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from lightning_maml.argument_types import check_counts, check_positive

Product = Callable[[Tensor], Tensor]


class Problem(Protocol):
    """What TRPO must know; everything at the parameters' present values, vectors flat."""

    def gradient(self) -> tuple[Tensor, float]:
        """Gradient of the loss ``[parameters]``, and the loss."""

    def fisher_product(self, direction: Tensor) -> Tensor:
        """Second derivative of the KL divergence times a vector: ``[n] -> [n]``."""

    def loss_and_kl(self) -> tuple[float, float]:
        """The loss, and the KL divergence from the policies that sampled."""


class TrpoReport(NamedTuple):
    """What a step did.

    Attributes:
        loss_before, loss_after: the loss; the same if the step was rejected.
        kl: KL divergence of the step that was taken.
        tries: steps looked at.
        accepted: whether one was taken.
    """

    loss_before: float
    loss_after: float
    kl: float
    tries: int
    accepted: bool


@torch.no_grad()
def set_parameters(parameters: Sequence[Tensor], vector: Tensor) -> None:
    """Copy a flat vector into parameters (torch's own makes them views of it)."""
    for p, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
        p.copy_(part.view_as(p))


def conjugate_gradient(
    product: Product, b: Tensor, iterations: int, residual: float = 1e-10
) -> tuple[Tensor, Tensor]:
    """x with ``product(x)`` near b, and ``b - product(x)``; stops where its square is small."""
    x, r = torch.zeros_like(b), b.clone()
    p, rr = r.clone(), r @ r
    for _ in range(iterations):
        if rr < residual:
            break
        ap = product(p)
        alpha = rr / (p @ ap)
        x, r = x + alpha * p, r - alpha * ap
        new = r @ r
        p, rr = r + new / rr * p, new
    return x, r


class Trpo(torch.optim.Optimizer):
    """A step along the natural gradient, as long as the KL divergence allows.

    `step` takes a closure that returns a `Problem`. The step is shortened until the loss falls
    and the KL divergence is within `max_kl`; if no try does, the parameters stay bit-equal.

    Args:
        params: one group of parameters, in the order of the problem's vectors.
        max_kl: largest mean KL divergence of a step.
        cg_iterations: iterations of conjugate gradient.
        damping: added to the diagonal of the Fisher matrix.
        backtrack_ratio: each try is this times as long as the one before.
        max_backtracks: number of tries.

    Raises:
        ValueError: naming the argument that is out of range.
        FloatingPointError: in `step`, if the gradient is not finite.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        max_kl: float = 0.01,
        cg_iterations: int = 10,
        damping: float = 1e-5,
        backtrack_ratio: float = 0.8,
        max_backtracks: int = 15,
    ) -> None:
        check_trpo(max_kl, cg_iterations, damping)
        check_counts(max_backtracks=(max_backtracks, 1))
        if not 0 < backtrack_ratio < 1:
            raise ValueError(f"`backtrack_ratio` must be between 0 and 1, got {backtrack_ratio}.")
        settings = {
            "max_kl": max_kl,
            "cg_iterations": cg_iterations,
            "damping": damping,
            "backtrack_ratio": backtrack_ratio,
            "max_backtracks": max_backtracks,
        }
        super().__init__(params, settings)
        self.report: TrpoReport | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One meta-update; leaves what it did in `report`, and returns the problem."""
        if closure is None:
            raise ValueError("`closure` must return the problem to solve, got None.")
        problem: Problem = closure()
        group = self.param_groups[0]
        gradient, before = problem.gradient()
        if not torch.isfinite(gradient).all():
            raise FloatingPointError(
                f"The meta-gradient is not finite (loss {before:.4g}); the weights are those "
                "before it. Try a smaller `inner_lr`."
            )
        step = _longest(problem, gradient, group)
        self.report = _line_search(problem, step, before, group)
        return problem


def check_trpo(max_kl: float, cg_iterations: int, damping: float) -> None:
    """Raise ValueError, naming the argument of `Trpo` that is out of range."""
    check_positive(max_kl=max_kl)
    if not 0 <= damping < math.inf:
        raise ValueError(f"`damping` must be a finite number >= 0, got {damping}.")
    check_counts(cg_iterations=(cg_iterations, 1))


def _longest(problem: Problem, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """The step along the natural gradient at which the quadratic model of the KL is `max_kl`."""
    damping = group["damping"]
    direction, residual = conjugate_gradient(
        lambda v: problem.fisher_product(v) + damping * v, gradient, group["cg_iterations"]
    )
    curvature = direction @ (gradient - residual)
    return direction * torch.sqrt(2 * group["max_kl"] / (curvature + 1e-8))


def _line_search(
    problem: Problem, step: Tensor, before: float, group: dict[str, Any]
) -> TrpoReport:
    parameters: list[Tensor] = group["params"]
    old = [p.clone() for p in parameters]
    start = parameters_to_vector(parameters)
    tries = group["max_backtracks"] if torch.isfinite(step).all() else 0
    for number in range(tries):
        set_parameters(parameters, start - group["backtrack_ratio"] ** number * step)
        loss, kl = problem.loss_and_kl()
        if loss < before and kl <= group["max_kl"]:
            return TrpoReport(before, loss, kl, number + 1, True)
    for parameter, value in zip(parameters, old, strict=True):
        parameter.copy_(value)
    return TrpoReport(before, before, 0.0, tries, False)
