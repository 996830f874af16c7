"""Inner updates: theta and its gradients to theta' (Algorithm 1, line 6, and others).

Each is a pure function of tensors, and everything else differentiates through it; so the
meta-gradient is exact for all of them, by the sweep as by the unrolled loop.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Params = dict[str, Tensor]
State = tuple[Params, ...]
StepSize = Callable[[str], Tensor | float]


@dataclass(frozen=True)
class InnerRule:
    """An inner update as pure functions.

    Attributes:
        init: theta_0 -> the rule's state (a tuple of parameter dictionaries, possibly empty).
        update: ``(theta, gradients, state, step_size of a name) -> (theta', state')``.
        linear: whether theta' and the state are linear in the gradients, so that their values need
            not be kept unless step sizes are learned. True of a rule that is not gives a wrong
            gradient.
    """

    init: Callable[[Params], State]
    update: Callable[[Params, Params, State, StepSize], tuple[Params, State]]
    linear: bool = False


def _zeros(theta: Params) -> Params:
    return {name: torch.zeros_like(p) for name, p in theta.items()}


def _sgd_update(
    theta: Params, grads: Params, state: State, step_size: StepSize
) -> tuple[Params, State]:
    return {name: p - step_size(name) * grads[name] for name, p in theta.items()}, state


def _no_state(theta: Params) -> State:
    return ()


SGD = InnerRule(init=_no_state, update=_sgd_update, linear=True)
"""theta' = theta - alpha * grad (Alg. 1, line 6)."""


def momentum(momentum: float = 0.9) -> InnerRule:
    """Heavy ball, as `torch.optim.SGD`: v' = momentum * v + grad, theta' = theta - alpha * v'.

    Raises:
        ValueError: unless 0 <= `momentum` < 1.
    """
    _check_share("momentum", momentum)

    def update(
        theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        velocity = {name: momentum * v + grads[name] for name, v in state[0].items()}
        return {name: p - step_size(name) * velocity[name] for name, p in theta.items()}, (
            velocity,
        )

    return InnerRule(lambda theta: (_zeros(theta),), update, linear=True)


def adam(beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> InnerRule:
    """Adam (Kingma and Ba 2015), as `torch.optim.Adam`; first about alpha * sign(grad).

    Where a gradient is exactly zero, its root counts as constant.

    Raises:
        ValueError: unless 0 <= beta < 1 and `eps` > 0.
    """
    _check_share("beta1", beta1)
    _check_share("beta2", beta2)
    if not eps > 0:
        raise ValueError(f"`eps` must be > 0, got {eps}.")

    def init(theta: Params) -> State:
        return _zeros(theta), _zeros(theta), {"": next(iter(theta.values())).new_zeros(())}

    def update(
        theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        count = state[2][""] + 1
        first = {name: beta1 * m + (1 - beta1) * grads[name] for name, m in state[0].items()}
        second = {name: beta2 * v + (1 - beta2) * grads[name] ** 2 for name, v in state[1].items()}
        moved = {
            name: p
            - step_size(name)
            * (first[name] / (1 - beta1**count))
            / (_root(second[name] / (1 - beta2**count)) + eps)
            for name, p in theta.items()
        }
        return moved, (first, second, {"": count})

    return InnerRule(init, update)


def clipped(rule: InnerRule, norm: float) -> InnerRule:
    """`rule` with a task's gradient, all parameters together, scaled down to this norm if longer.

    Raises:
        ValueError: unless `norm` > 0.
    """
    if not norm > 0:
        raise ValueError(f"`norm` must be > 0, got {norm}.")

    def update(
        theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        square = torch.stack([(g**2).sum() for g in grads.values()]).sum()
        longer = square > norm**2
        factor = torch.where(longer, norm * torch.where(longer, square, 1.0).rsqrt(), 1.0)
        return rule.update(theta, {n: factor * g for n, g in grads.items()}, state, step_size)

    return InnerRule(rule.init, update)


def held_back(rule: InnerRule, strength: float) -> InnerRule:
    """`rule` with weight decay toward the initialisation: strength * (theta - theta_0) is added to
    the gradient (the proximal term of iMAML, Rajeswaran et al. 2019).

    Raises:
        ValueError: unless `strength` >= 0.
    """
    if not strength >= 0:
        raise ValueError(f"`strength` must be >= 0, got {strength}.")

    def update(
        theta: Params, grads: Params, state: State, step_size: StepSize
    ) -> tuple[Params, State]:
        start, *rest = state
        pulled = {n: g + strength * (theta[n] - start[n]) for n, g in grads.items()}
        moved, after = rule.update(theta, pulled, tuple(rest), step_size)
        return moved, (start, *after)

    return InnerRule(lambda theta: (theta, *rule.init(theta)), update, rule.linear)


RULES: dict[str, Callable[[], InnerRule]] = {
    "sgd": lambda: SGD,
    "momentum": momentum,
    "adam": adam,
}


def rule_by_name(rule: str | InnerRule) -> InnerRule:
    """The inner rule of that name, with its default settings; a rule as it is.

    Raises:
        ValueError: naming the rules there are.
    """
    if isinstance(rule, InnerRule):
        return rule
    if rule not in RULES:
        raise ValueError(f"`inner_rule` must be one of {list(RULES)}, got {rule!r}.")
    return RULES[rule]()


def _root(square: Tensor) -> Tensor:
    """The square root, whose derivative at 0 is taken as 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must be >= 0 and < 1, got {value}.")
