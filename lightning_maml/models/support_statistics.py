"""Batch norm on the statistics of the support set alone, so that queries do not see each other.

Transductive batch norm (batch_norm.py) normalises a query by the other queries of its set: alone,
an image is normalised by itself, and behind a mean over its pixels any two lone images look
alike. Here mean and variance are those that the support set has, at each layer, at the
adapted weights (MetaBN in Bronskill et al., TaskNorm, ICML 2020).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from lightning_maml.functional_model import call_without_trace
from lightning_maml.models.batch_norm import EpisodeBatchNorm, _BatchStatisticsNorm, _Converted

_FORWARDS = tuple(
    kind.forward for kind in (EpisodeBatchNorm, _BatchStatisticsNorm, _BatchNorm, nn.SyncBatchNorm)
)


class SupportStatisticsNorm(_Converted):
    """Batch norm whose statistics, the buffers ``running_mean`` and ``running_var``, are fixed."""

    unused = ()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x [N, C, ...]``, in full precision."""
        with torch.autocast(x.device.type, enabled=False):
            wide = _wide(x)
            mean, var, weight, bias = (
                t if t is None else t.to(wide.dtype)
                for t in (self.running_mean, self.running_var, self.weight, self.bias)
            )
            return F.batch_norm(wide, mean, var, weight, bias, eps=self.eps).to(x.dtype)


def transductive_norms(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of batch norm, by name, that normalise by the batch at hand in eval mode, too."""
    return {n: m for n, m in model.named_modules() if _uses_batch_statistics(m)}


def fix_statistics(model: nn.Module, support_x: Tensor) -> None:
    """Make all transductive batch norm in `model` use the statistics of ``support_x [S, ...]``.

    One forward pass finds them, layer by layer, so that ``model(support_x)`` stays what it was.
    Layers with running statistics stay as they are, and so do those that the pass does not reach.

    Raises:
        ValueError: naming a layer that runs more than once or has a `forward` of its own.
    """
    norms = transductive_norms(model)
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def noting(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if name in found:
                raise _cannot(name, "runs more than once in a forward pass")
            found[name] = _mean_and_variance(inputs[0])

        return hook

    for name, norm in norms.items():
        if type(norm).forward not in _FORWARDS or is_parametrized(norm):
            raise _cannot(name, f"is a {type(norm).__name__}, which computes in a way of its own")
    handles = [norm.register_forward_pre_hook(noting(name)) for name, norm in norms.items()]
    try:
        with torch.no_grad():
            call_without_trace(model, support_x)
    finally:
        for handle in handles:
            handle.remove()
    for name, statistics in found.items():
        for buffer, value in zip(("running_mean", "running_var"), statistics, strict=True):
            norms[name].register_buffer(buffer, value)
        norms[name].__class__ = SupportStatisticsNorm


def _mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]`` of ``x [N, C, ...]``, in full precision."""
    axes, wide = [axis for axis in range(x.ndim) if axis != 1], _wide(x)
    return wide.mean(axes), wide.var(axes, correction=0)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _uses_batch_statistics(module: nn.Module) -> bool:
    if isinstance(module, EpisodeBatchNorm | _BatchStatisticsNorm):
        return True
    return isinstance(module, _BatchNorm) and module.running_mean is None


def _cannot(name: str, why: str) -> ValueError:
    return ValueError(
        f'`statistics` must be "transductive" for this model, got "support": its batch norm '
        f"`{name}` {why}."
    )
