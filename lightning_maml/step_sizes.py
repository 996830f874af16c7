"""Inner step sizes (alpha of Algorithm 1): one number or one per inner step, fixed or learned.

The paper fixes alpha. Learned forms: Meta-SGD (Li et al. 2017) has one per weight, MAML++
(Antoniou et al. 2019) one per tensor and inner step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

Learned = Literal["one", "per_tensor", "per_tensor_and_step", "per_weight"]
Schedule = float | Sequence[float]
"""A step size, or one for each inner step; steps past the end have the last one."""


@dataclass(frozen=True)
class StepSizes:
    """Where the step size of an adapted tensor at an inner step comes from.

    Attributes:
        inner_lr: the fixed step size, or the value that learned ones start from; or several, one
            for each inner step. Past their end the last one holds, in training and in evaluation.
        learned: ``None`` (fixed), or how many are learned: ``"one"``, ``"per_tensor"``,
            ``"per_tensor_and_step"``, ``"per_weight"``. What is learned for all steps together
            keeps the ratios of several: it is the first step's, and step k takes
            inner_lr[k] / inner_lr[0] of it. Likewise for steps past the last one learned.

    Raises:
        ValueError: if a step size is negative or not finite, there is none, or one of several is
            zero where they are learned, or `learned` is not a known form.
    """

    inner_lr: Schedule
    learned: Learned | None = None

    def __post_init__(self) -> None:
        if isinstance(self.inner_lr, Sequence):
            object.__setattr__(self, "inner_lr", tuple(self.inner_lr))  # a key of programs
        _check_schedule("inner_lr", self.inner_lr)
        if self.learned is not None and self.learned not in get_args(Learned):
            raise ValueError(
                f"`learn_inner_lr` must be one of {list(get_args(Learned))} or None, "
                f"got {self.learned!r}."
            )
        if self.learned is not None and len(self._listed) > 1 and 0 in self._listed:
            raise ValueError(
                "`inner_lr` must have no 0 among several numbers where `learn_inner_lr` is set, "
                f"got {self.inner_lr}."
            )

    def fixed(self, step: int) -> float:
        """The step size of inner step `step` as given: fixed, or the start of a learned one."""
        return self._listed[min(step, len(self._listed) - 1)]

    def initial(self, adapted: Mapping[str, Tensor], inner_steps: int) -> dict[str, Tensor]:
        """The tensors to learn, at what `inner_lr` says; none if fixed.

        Keys are parameter names, but ``"all"`` for the form ``"one"``. Shapes: ``[]`` ("one",
        "per_tensor"), ``[inner_steps]`` ("per_tensor_and_step"), the parameter's ("per_weight").
        """
        if self.learned is None:
            return {}
        if self.learned == "per_tensor_and_step" and inner_steps == 0:
            raise ValueError(
                "`inner_steps` must be at least 1 where `learn_inner_lr` is per step, got 0."
            )
        first = self.fixed(0)
        if self.learned == "one":
            return {"all": next(iter(adapted.values())).new_tensor(first)}
        if self.learned == "per_tensor_and_step":
            steps = [self.fixed(step) for step in range(inner_steps)]
            return {name: p.new_tensor(steps) for name, p in adapted.items()}
        if self.learned == "per_tensor":
            return {name: p.new_tensor(first) for name, p in adapted.items()}
        return {name: torch.full_like(p, first) for name, p in adapted.items()}

    def at(self, learned: Mapping[str, Tensor], name: str, step: int) -> Tensor | float:
        """Step size of tensor `name` at inner step `step`, broadcastable to the tensor."""
        if self.learned is None:
            return self.fixed(step)
        alpha, known = learned["all" if self.learned == "one" else name], 0
        if self.learned == "per_tensor_and_step":
            known = min(step, alpha.shape[0] - 1)
            alpha = alpha[known]
        then, now = self.fixed(known), self.fixed(step)
        ratio = 1.0 if now == then else now / then  # one alone may be 0
        return alpha if ratio == 1 else ratio * alpha

    @property
    def _listed(self) -> tuple[float, ...]:
        given = self.inner_lr
        return tuple(given) if isinstance(given, Sequence) else (given,)


def _check_schedule(name: str, inner_lr: Schedule) -> None:
    listed = inner_lr if isinstance(inner_lr, Sequence) else [inner_lr]
    if not listed or not all(0 <= value < float("inf") for value in listed):
        raise ValueError(f"`{name}` must be a finite number >= 0, or several, got {inner_lr}.")


def evaluation_sizes(inner_lr: Schedule | None, learned: Learned | None) -> StepSizes | None:
    """Fixed step sizes of evaluation alone; ``None``: those of training.

    Raises:
        ValueError: if those of training are learned, or one is negative or not finite.
    """
    if inner_lr is not None and learned is not None:
        raise ValueError(
            f"`eval_inner_lr` must be None where `learn_inner_lr` is set, got {inner_lr}."
        )
    if inner_lr is None:
        return None
    _check_schedule("eval_inner_lr", inner_lr)
    return StepSizes(inner_lr)


def as_floats(inner_lr: Schedule | None) -> Any:
    """A step size, or several, as plain data; None as it is."""
    if inner_lr is None:
        return None
    return np.asarray(inner_lr, dtype=np.float64).tolist()
