"""Inner updates: theta and its gradients to theta' (Algorithm 1, line 6, and others).

Each is a pure function of tensors, and everything else differentiates through it; so the
meta-gradient is exact for all of them, by the sweep as by the unrolled loop. Half-precision
gradients are taken as 32-bit numbers where they are squared.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_maml.argument_types import check_types

Params = dict[str, Tensor]
State = tuple[Params, ...]
StepSize = Callable[[str], Tensor | float]
LONGEST = 1e19  # its square fits 32 bits


def _wide(value: Tensor) -> Tensor:
    """In 32 bits if it is in fewer."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _root(square: Tensor) -> Tensor:
    """The square root, whose derivative at 0 is taken as 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must be >= 0 and < 1, got {value}.")


class InnerRule(ABC):
    """An inner update. Rules are frozen dataclasses, so that equal ones share compiled programs.

    Attributes:
        linear: whether theta' and the state are linear, up to constants, in theta, gradients and
            state together, so that the derivative is the same everywhere and values need not be
            kept for it unless step sizes are learned. True of a rule that is not gives a wrong
            gradient.
    """

    linear: bool = False

    def init(self, theta: Params) -> State:
        """The state before the first step at theta_0, a tuple of dictionaries of tensors."""
        return ()

    @abstractmethod
    def update(
        self, theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        """theta' and the state after it; `step_size` gives alpha of a parameter's name."""


@dataclass(frozen=True)
class Sgd(InnerRule):
    """theta' = theta - alpha * grad (Alg. 1, line 6)."""

    linear = True

    def update(
        self, theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        """A gradient step."""
        return {name: p - step_size(name) * grads[name] for name, p in theta.items()}, state


SGD = Sgd()


@dataclass(frozen=True)
class Momentum(InnerRule):
    """Heavy ball, as `torch.optim.SGD`: v' = momentum * v + grad, theta' = theta - alpha * v'.

    Raises:
        ValueError: unless 0 <= `momentum` < 1.
    """

    momentum: float = 0.9
    linear = True

    def __post_init__(self) -> None:
        check_types(type(self), vars(self))
        _check_share("momentum", self.momentum)

    def init(self, theta: Params) -> State:
        """At rest."""
        return ({name: torch.zeros_like(p) for name, p in theta.items()},)

    def update(
        self, theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        """A step with the new velocity."""
        velocity = {name: self.momentum * v + grads[name] for name, v in state[0].items()}
        moved = {name: p - step_size(name) * velocity[name] for name, p in theta.items()}
        return moved, (velocity,)


@dataclass(frozen=True)
class Adam(InnerRule):
    """Adam (Kingma and Ba 2015), as `torch.optim.Adam`; first about alpha * sign(grad).

    Where a gradient is exactly zero, the root of its square counts as constant.

    Raises:
        ValueError: unless 0 <= beta < 1 and `eps` > 0.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_types(type(self), vars(self))
        _check_share("beta1", self.beta1)
        _check_share("beta2", self.beta2)
        if not self.eps > 0:
            raise ValueError(f"`eps` must be > 0, got {self.eps}.")

    def init(self, theta: Params) -> State:
        """Both moments, and the number of steps."""
        zeros = {name: torch.zeros_like(_wide(p)) for name, p in theta.items()}
        count = next(iter(zeros.values())).new_zeros(())
        return zeros, dict(zeros), {"": count}

    def update(
        self, theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        """A step by the corrected moments."""
        b1, b2, count = self.beta1, self.beta2, state[2][""] + 1
        first = {n: b1 * m + (1 - b1) * _wide(grads[n]) for n, m in state[0].items()}
        second = {n: b2 * v + (1 - b2) * _wide(grads[n]) ** 2 for n, v in state[1].items()}
        moved = {}
        for name, p in theta.items():
            root = _root(second[name] / (1 - b2**count)) + self.eps
            step = first[name] / (1 - b1**count) / root
            moved[name] = p - step_size(name) * step.to(p.dtype)
        return moved, (first, second, {"": count})


class _Around(InnerRule):
    """A rule that changes the gradients which another one is given."""

    rule: str | InnerRule

    @property
    def inner(self) -> InnerRule:
        """The other one."""
        return rule_by_name(self.rule)


@dataclass(frozen=True)
class Clipped(_Around):
    """`rule` with a task's gradient, over all that is adapted, scaled to this norm if it is longer.

    Raises:
        ValueError: unless 0 < `norm` < `LONGEST`, for other rules than there are.
    """

    norm: float
    rule: str | InnerRule = "sgd"

    def __post_init__(self) -> None:
        check_types(type(self), vars(self))
        if not 0 < self.norm < LONGEST:
            raise ValueError(f"`norm` must be > 0 and < {LONGEST:g}, got {self.norm}.")
        rule_by_name(self.rule, "rule")

    def init(self, theta: Params) -> State:
        """That of `rule`."""
        return self.inner.init(theta)

    def update(
        self, theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        """A step of `rule`."""
        square = torch.stack([(_wide(g) ** 2).sum() for g in grads.values()]).sum()
        longer = square > self.norm**2
        factor = torch.where(longer, self.norm * torch.where(longer, square, 1.0).rsqrt(), 1.0)
        shorter = {name: (factor * g).to(g.dtype) for name, g in grads.items()}
        return self.inner.update(theta, shorter, state, step_size)


@dataclass(frozen=True)
class HeldBack(_Around):
    """`rule` with weight decay toward the initialisation: strength * (theta - theta_0) is added to
    the gradient (the proximal term of iMAML, Rajeswaran et al. 2019). It is no part of the inner
    gradient, so it is differentiated even under `first_order`.

    Raises:
        ValueError: unless `strength` >= 0.
    """

    strength: float
    rule: str | InnerRule = "sgd"

    def __post_init__(self) -> None:
        check_types(type(self), vars(self))
        if not self.strength >= 0:
            raise ValueError(f"`strength` must be >= 0, got {self.strength}.")
        rule_by_name(self.rule, "rule")

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """As `rule` is."""
        return self.inner.linear

    def init(self, theta: Params) -> State:
        """theta_0, and the state of `rule`."""
        return theta, *self.inner.init(theta)

    def update(
        self, theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        """A step of `rule`."""
        start, *rest = state
        pulled = {n: g + self.strength * (theta[n] - start[n]) for n, g in grads.items()}
        moved, after = self.inner.update(theta, pulled, tuple(rest), step_size)
        return moved, (start, *after)


RULES: dict[str, InnerRule] = {"sgd": SGD, "momentum": Momentum(), "adam": Adam()}


def rule_by_name(rule: str | InnerRule, argument: str = "inner_rule") -> InnerRule:
    """The inner rule of that name, with its default settings; a rule as it is.

    Raises:
        ValueError: naming the rules there are.
    """
    if isinstance(rule, InnerRule):
        return rule
    if rule not in RULES:
        raise ValueError(
            f"`{argument}` must be one of {list(RULES)} or an `InnerRule`, got {rule!r}. (A "
            "checkpoint does not hold a rule that was an object: give it again.)"
        )
    return RULES[rule]
