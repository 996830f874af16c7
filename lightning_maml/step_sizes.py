"""Inner step sizes (alpha of Algorithm 1): one fixed number, or learned by the meta-optimizer.

The paper fixes alpha. Learned forms: Meta-SGD (Li et al. 2017) has one per weight, MAML++
(Antoniou et al. 2019) one per tensor and inner step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Learned = Literal["one", "per_tensor", "per_tensor_and_step", "per_weight"]


@dataclass(frozen=True)
class StepSizes:
    """Where the step size of an adapted tensor at an inner step comes from.

    Attributes:
        inner_lr: the fixed step size, or the value that learned ones start from.
        learned: ``None`` (fixed), or how many are learned: ``"one"``, ``"per_tensor"``,
            ``"per_tensor_and_step"``, ``"per_weight"``.
        later: the fixed step size of all steps but the first; ``None``: `inner_lr` there, too.

    Raises:
        ValueError: if a step size is negative or not finite, or `learned` is not a known form.
    """

    inner_lr: float
    learned: Learned | None = None
    later: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("inner_lr", self.inner_lr), ("later_inner_lr", self.later)):
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"`{name}` must be a finite number >= 0, got {value}.")
        if self.learned is not None and self.learned not in get_args(Learned):
            raise ValueError(
                f"`learn_inner_lr` must be one of {list(get_args(Learned))} or None, "
                f"got {self.learned!r}."
            )

    def initial(self, adapted: Mapping[str, Tensor], inner_steps: int) -> dict[str, Tensor]:
        """The tensors to learn, all at `inner_lr`; none if fixed.

        Keys are parameter names, but ``"all"`` for the form ``"one"``. Shapes: ``[]`` ("one",
        "per_tensor"), ``[inner_steps]`` ("per_tensor_and_step"), the parameter's ("per_weight").
        """
        if self.learned is None:
            return {}
        if self.learned == "per_tensor_and_step" and inner_steps == 0:
            raise ValueError(
                "`inner_steps` must be at least 1 where `learn_inner_lr` is per step, got 0."
            )
        if self.learned == "one":
            return {"all": self._like(next(iter(adapted.values())), ())}
        shapes = {
            "per_tensor": lambda p: (),
            "per_tensor_and_step": lambda p: (inner_steps,),
            "per_weight": lambda p: tuple(p.shape),
        }
        shape = shapes[self.learned]
        return {name: self._like(p, shape(p)) for name, p in adapted.items()}

    def at(self, learned: Mapping[str, Tensor], name: str, step: int) -> Tensor | float:
        """Step size of tensor `name` at inner step `step`, broadcastable to the tensor.

        Steps past the last trained one (evaluation may take more) use that one's.
        """
        if self.learned is None:
            return self.later if step and self.later is not None else self.inner_lr
        if self.learned == "one":
            return learned["all"]
        alpha = learned[name]
        if self.learned == "per_tensor_and_step":
            return alpha[min(step, alpha.shape[0] - 1)]
        return alpha

    def _like(self, parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.full(shape, self.inner_lr, dtype=parameter.dtype, device=parameter.device)
