"""Hands a gradient that is already known to autograd, so that `.backward()` works as ever.

The meta-gradient is computed functionally; DDP's hooks, gradient scalers and optimizers expect
a loss with a graph. The bridge is a graph of one node.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _KnownGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, grads: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*grads)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(upstream * g for g in ctx.saved_tensors))


def with_gradient(value: Tensor, inputs: Sequence[Tensor], grads: Sequence[Tensor]) -> Tensor:
    """`value`, with a graph whose backward gives `grads` (times the incoming one) to `inputs`.

    Every parameter that DDP watches must be among `inputs`. A second derivative is an error.

    Shapes: `value` scalar; `grads` as `inputs`.
    """
    return _KnownGradient.apply(value, grads, *inputs)
