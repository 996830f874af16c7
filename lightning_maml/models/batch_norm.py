"""Batch norm on the statistics of the current batch (Sec. 5.2; the authors' code).

Here it is transductive: the support set, and the query set, are each normalised by their own mean
and variance, at training and at test, so that a prediction depends on the other examples of its
set. There are no running statistics that could leak from one task to the next.
"""

import logging
import os
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from lightning_maml.models.normalise import normalised, per_channel

_log = logging.getLogger(__name__)


def batch_statistics_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, mean and (biased) variance per channel of `x`.

    For images that are laid out channels-last, as large ones are on a CPU, by normalise.py, for the
    sake of second derivatives. By torch's elsewhere, where its operators are faster, and in
    compiled programs, which fuse them; and without weight and bias, where the result itself would
    be what normalise.py keeps.

    Shapes:
        x: ``[N, C, ...]``; weight and bias: ``[C]``.

    Raises:
        ValueError: if a channel has fewer than two values, whose variance says nothing.
    """
    if x.ndim < 2 or x.numel() < 2 * x.shape[1]:
        raise ValueError(
            "Batch norm on the batch's own statistics needs an input [N, C, ...] with at least 2 "
            f"values per channel, got shape {tuple(x.shape)}. Give it at least 2 examples at once, "
            "or use a norm that looks at one example only (GroupNorm, LayerNorm)."
        )
    with torch.autocast(x.device.type, enabled=False):  # statistics in full precision
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        weight, bias = (t if t is None else t.to(wide.dtype) for t in (weight, bias))
        plain = weight is None and bias is None  # what comes next may write in place
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
        if not plain and not traced and x.device.type == "cpu" and _is_channels_last(wide):
            return _affine(normalised(wide, eps), weight, bias).to(x.dtype)
        if weight is None and bias is not None:
            # torch's reverse-over-reverse derivative fails for an offset without a scale, and
            # forward-over-reverse, compiled, for a scale without a tangent.
            weight = 1 + 0 * bias
        return F.batch_norm(wide, None, None, weight, bias, training=True, eps=eps).to(x.dtype)


def _is_channels_last(x: Tensor) -> bool:
    try:
        return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    except RuntimeError:  # batched by vmap
        return False


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x * weight + bias, each of them per channel and optional."""
    weight, bias = (t if t is None else per_channel(t, x) for t in (weight, bias))
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


class EpisodeBatchNorm(nn.Module):
    """Transductive batch norm for ``[N, C]``, ``[N, C, L]`` and ``[N, C, H, W]``.

    Normalises by the statistics of the batch at hand, in train and in eval mode alike, and keeps
    no running statistics. As in the authors' code there is a learned offset but no learned scale.

    Args:
        num_features: number of channels C.
        eps: added to the variance; the authors' (TensorFlow's default at the time).
        scale: learn a factor per channel, the parameter ``weight``.
        offset: learn an offset per channel, the parameter ``bias``.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-3, scale: bool = False, offset: bool = True
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features)) if scale else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if offset else None

    def reset_parameters(self) -> None:
        """Scale 1 and offset 0."""
        for parameter, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if parameter is not None:
                nn.init.constant_(parameter, value)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x`, ``[N, num_features, ...]``."""
        if x.ndim > 1 and x.shape[1] != self.num_features:
            raise ValueError(
                f"Expected {self.num_features} channels (`num_features`), "
                f"got an input of shape {tuple(x.shape)}."
            )
        return batch_statistics_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return (
            f"{self.num_features}, eps={self.eps}, scale={self.weight is not None}, "
            f"offset={self.bias is not None}"
        )


class _Converted(nn.Module):
    """A stock batch norm with its parameters and buffers, but a forward that updates nothing.

    Not derived from torch's batch norm, so that `Trainer(sync_batchnorm=True)` passes it by.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    eps: float
    unused: ClassVar[tuple[str, ...]]  # buffers that a checkpoint may lack

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in self.unused:
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """What `print` shows between the brackets."""
        return f"{len(self.running_mean)}, eps={self.eps}, affine={self.weight is not None}"


class _BatchStatisticsNorm(_Converted):
    unused = ("running_mean", "running_var", "num_batches_tracked")

    def forward(self, x: Tensor) -> Tensor:
        return batch_statistics_norm(x, self.weight, self.bias, self.eps)


class _RunningStatisticsNorm(_Converted):
    unused: ClassVar[tuple[str, ...]] = ("num_batches_tracked",)

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)


def with_episode_statistics(model: nn.Module) -> nn.Module:
    """A copy of `model` whose stock batch norm is free of running updates and safe under `vmap`.

    - ``nn.BatchNorm1d/2d/3d`` and ``nn.SyncBatchNorm`` normalise by the current batch in train and
      in eval mode (transductive, see the head of this file).
    - Where all of its parameters are frozen (``requires_grad`` False now), as in a frozen
      pretrained backbone, it normalises by its running statistics in both modes instead.

    Neither kind updates a buffer. Names of modules, parameters and buffers stay, ties and hooks
    too. The running buffers are kept, unused by the first kind, so that a ``state_dict`` of the
    original loads into the copy and the other way round. One that lacks unused buffers loads too.

    Returns `model` itself, not a copy, if there was nothing to convert.

    Raises:
        ValueError: if a layer with running statistics cannot be converted, naming it.
    """
    norms = {n: m for n, m in model.named_modules() if _has_running_statistics(m)}
    return _converted(model, norms) if norms else model


def with_frozen_statistics(model: nn.Module) -> nn.Module:
    """The same of the frozen layers alone; others stay as they are.

    Returns `model` itself, not a copy, if there was nothing to convert.

    Raises:
        ValueError: if a layer cannot be converted, naming it.
    """
    modules = model.named_modules()
    norms = {n: m for n, m in modules if _has_running_statistics(m) and _is_frozen(m)}
    return _converted(model, norms) if norms else model


def _converted(model: nn.Module, norms: Mapping[str, nn.Module]) -> nn.Module:
    for name, norm in sorted(norms.items()):
        _check_convertible(name, norm)
    model = deepcopy(model)
    frozen = 0
    for name in norms:
        norm = model.get_submodule(name)
        keeps = _is_frozen(norm)
        # A change of class keeps the object, and so every tie, hook and reference to it.
        norm.__class__ = _RunningStatisticsNorm if keeps else _BatchStatisticsNorm
        frozen += keeps
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
        _log.info(
            "Batch norm: in a copy of the model, %d layer(s) now use the statistics of each batch "
            "in train and eval mode; %d frozen one(s) keep their running statistics.",
            len(norms) - frozen, frozen,
        )  # fmt: skip
    return model


def _is_frozen(norm: nn.Module) -> bool:
    parameters = list(norm.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _has_running_statistics(module: nn.Module) -> bool:
    is_norm = isinstance(module, _BatchNorm | _InstanceNorm)
    return is_norm and getattr(module, "running_mean", None) is not None


def _check_convertible(name: str, module: nn.Module) -> None:
    what = f"`{name}`" if name else "The model"
    kind = type(module).__name__
    if isinstance(module, LazyModuleMixin):
        raise ValueError(f"{what} is a {kind} without a size yet: run the model once on an input.")
    stock = type(module).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
    if not stock or is_parametrized(module):
        raise ValueError(
            f"{what} is a {kind}, whose running statistics would be updated inside the inner loop. "
            "Make it with `track_running_stats=False`, or use `EpisodeBatchNorm` or GroupNorm."
        )
