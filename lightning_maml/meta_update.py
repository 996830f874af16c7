"""The meta-update (Algorithm 1, line 8): what is done with the meta-gradient."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

OptimizerFactory = Callable[[Iterable], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


FUSED = ("cpu", "cuda")
"""Devices on which Adam takes its step for all parameters in one call."""

LARGEST = 1e30
"""Torch steps and clips by numbers of 32 bits, which must have room for a factor."""


@dataclass(frozen=True)
class MetaUpdate:
    """The settings of the meta-update; for the attributes see `MetaLearner`.

    Raises:
        ValueError: naming the argument that is out of range, or `meta_lr` beside `optimizer`.
    """

    meta_lr: float | None = None
    optimizer: OptimizerFactory | None = None
    scheduler: SchedulerFactory | None = None
    clip_value: float | None = None
    clip_norm: float | None = None
    accumulate_batches: int = 1

    def __post_init__(self) -> None:
        if self.meta_lr is not None and not 0 <= self.meta_lr < float("inf"):
            raise ValueError(f"`meta_lr` must be a finite number >= 0, got {self.meta_lr}.")
        clips = {"clip_meta_grad_value": self.clip_value, "clip_meta_grad_norm": self.clip_norm}
        for name, value in clips.items():
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"`{name}` must be a finite number > 0 or None, got {value}.")
        for name, value in {"meta_lr": self.meta_lr, **clips}.items():
            if value is not None and value > LARGEST:
                raise ValueError(f"`{name}` must be at most {LARGEST:g}, got {value}.")
        if self.meta_lr is not None and self.optimizer is not None:
            raise ValueError(
                "`meta_lr` belongs to the default optimizer and must be None beside `optimizer`, "
                f"got {self.meta_lr}."
            )
        if self.accumulate_batches < 1:
            raise ValueError(
                f"`accumulate_batches` must be at least 1, got {self.accumulate_batches}."
            )

    def configure(self, parameters: Sequence[nn.Parameter]) -> Any:
        """The optimizer, Adam by default as in the authors' code, and its scheduler if any."""
        if self.optimizer is not None:
            optimizer = _made("optimizer", self.optimizer, parameters, Optimizer)
        else:
            lr = 1e-3 if self.meta_lr is None else self.meta_lr
            optimizer = torch.optim.Adam(parameters, lr=lr, fused=all(map(_fits_fused, parameters)))
        if self.scheduler is None:
            return optimizer
        return [optimizer], [_made("scheduler", self.scheduler, optimizer, LRScheduler)]

    def share(self, loss: Tensor) -> Tensor:
        """What a batch's meta-loss adds to the mean over `accumulate_batches`."""
        return loss if self.accumulate_batches == 1 else loss / self.accumulate_batches

    def clip(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Clip `.grad` in place, by value and then by norm; returns the norm before."""
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.clip_value is not None:
            clip_grad_value_(parameters, self.clip_value)
        if self.clip_norm is not None:
            clip_grad_norm_(parameters, self.clip_norm)
        return norm


def _fits_fused(parameter: Tensor) -> bool:
    """Whether torch can update it in one call with others: on a CPU it ignores strides."""
    right = parameter.is_floating_point() and parameter.is_contiguous()
    return right and parameter.device.type in FUSED


def _made(name: str, make: Callable[[Any], Any], given: Any, kind: type) -> Any:
    """What the setting of that name makes of what it is given."""
    try:
        made = make(given)
    except (TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"`{name}` must be a function that makes one, got {make!r}: {reason}"
        ) from error
    if not isinstance(made, kind):
        raise ValueError(f"`{name}` must make `{kind.__name__}`s, got {type(made).__name__}.")
    return made


def gathered(module: nn.Module, batches: int) -> dict[str, Any]:
    """What `batches` batches have left for a meta-update that is not complete."""
    grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"batches": batches, "grads": grads}


def gather_again(module: nn.Module, left: dict[str, Any]) -> int:
    """Put it back, from a checkpoint; the number of batches."""
    parameters = dict(module.named_parameters())
    for name, grad in left["grads"].items():
        parameters[name].grad = grad.to(parameters[name], copy=True)
    return int(left["batches"])
