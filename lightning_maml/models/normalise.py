"""Normalising by a batch's own statistics, with short derivatives of both orders.

torch has a fused gradient of batch norm. That gradient's own derivatives it takes apart into some
forty operators, which on large images are most of a meta-gradient's time; here they are written
out. With r = 1 / sqrt(var + eps), x_hat = (x - mean) r, means taken over each channel, and

    P(u) = u - mean(u) - x_hat mean(u x_hat)

the derivatives are

    d x_hat = r P(dx),   d r = -r^2 mean(dx x_hat)
    d(r P(u)) = P(r du + dr u) - r mean(u x_hat) d x_hat - r mean(u d x_hat) x_hat

so that all of them are made of P, which is what torch's fused gradient computes for an input whose
mean is 0 and whose deviation is 1. As that is not how torch would differentiate it further, it is
called in `forward` alone. Third derivatives are right but for forward over forward over reverse
mode, where torch loses the outer tangent.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

# [N, C, ...]: x, x_hat and all that has their shape; [C]: r, means


def normalised(x: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps), mean and (biased) variance per channel.

    The result is kept for the gradient, so it must not be changed in place.

    Shapes: ``[N, C, ...]`` -> the same.
    """
    x_hat: Tensor = _Normalise.apply(x, eps)[0]
    return x_hat


class _Normalise(Function):
    """x -> x_hat, r."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x_hat, _, r = torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)
        return x_hat, r

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        _save(ctx, *output)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> tuple[Tensor, Tensor]:
        x_hat, r = ctx.saved_tensors
        dx_hat, mean = _Project.apply(dx, x_hat, r)
        return dx_hat, -r.square() * mean

    @staticmethod
    def backward(ctx: Any, bar: Tensor | None, r_bar: Tensor | None) -> tuple[Tensor | None, None]:
        x_hat, r = ctx.saved_tensors
        x_bar = None if bar is None else _Project.apply(bar, x_hat, r)[0]
        if r_bar is not None:
            through_r = -r.square() * r_bar / _count(x_hat)
            x_bar = _plus(x_bar, x_hat, through_r)
        return x_bar, None


class _Project(Function):
    """u, x_hat, r -> r P(u), mean(u x_hat)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, x_hat: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        product, total = _fused(u, x_hat, r)
        return product, total / _count(u)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        _save(ctx, *inputs, output[1])

    @staticmethod
    def jvp(
        ctx: Any, du: Tensor | None, dx_hat: Tensor | None, dr: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        u, x_hat, r, mean = ctx.saved_tensors
        moved = torch.zeros_like(u) if du is None else du * per_channel(r, u)
        moved = moved if dr is None else _plus(moved, u, dr)
        product, of_moved = _Project.apply(moved, x_hat, torch.ones_like(r))
        # which is r mean(du x_hat) + dr mean
        d_mean = (of_moved - (0 if dr is None else dr * mean)) / r
        if dx_hat is not None:
            other = _Dot.apply(u, dx_hat) / _count(u)
            product = _plus(_plus(product, dx_hat, -r * mean), x_hat, -r * other)
            d_mean = d_mean + other
        return product, d_mean

    @staticmethod
    def backward(
        ctx: Any, bar: Tensor | None, mean_bar: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        u, x_hat, r, mean = ctx.saved_tensors
        u_bar = x_hat_bar = r_bar = None
        if bar is not None:
            u_bar, other = _Project.apply(bar, x_hat, r)
            x_hat_bar = _plus(_plus(None, bar, -r * mean), u, -r * other)
            r_bar = _Dot.apply(bar, u) - _count(u) * (_mean(bar) * _mean(u) + other * mean)
        if mean_bar is not None:
            share = mean_bar / _count(u)
            u_bar, x_hat_bar = _plus(u_bar, x_hat, share), _plus(x_hat_bar, u, share)
        return u_bar, x_hat_bar, r_bar


class _Dot(Function):
    """a, b -> the sum of a b of each channel."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _fused(a, b)[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def jvp(ctx: Any, da: Tensor | None, db: Tensor | None) -> Tensor:
        a, b = ctx.saved_tensors
        parts = [] if da is None else [_Dot.apply(da, b)]
        parts += [] if db is None else [_Dot.apply(a, db)]
        return sum(parts[1:], parts[0])

    @staticmethod
    def backward(ctx: Any, bar: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        a, b = ctx.saved_tensors
        return (None, None) if bar is None else (_plus(None, b, bar), _plus(None, a, bar))


def _save(ctx: Any, *tensors: Tensor) -> None:
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.set_materialize_grads(False)


def _plus(total: Tensor | None, x: Tensor, factor: Tensor) -> Tensor:
    """total + factor x, the factor of each channel."""
    wide = per_channel(factor, x)
    return x * wide if total is None else torch.addcmul(total, x, wide)


def _fused(u: Tensor, x: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """weight P(u) with x for x_hat, if there is a weight, and the sum of u x of each channel."""
    one = u.new_ones(x.shape[1])
    wanted = [weight is not None, True, True]
    weight = one if weight is None else weight  # batched, there are no sums without it
    parts: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.native_batch_norm_backward(
        u, x, weight, None, None, torch.zeros_like(one), one, True, 0.0, wanted
    )
    return parts[:2]


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=_others(x))


def _others(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """``[C] -> [C, 1, ...]``, as many ones as `like` has axes after its channels."""
    return values.view(-1, *[1] * (like.ndim - 2))


def _count(x: Tensor) -> int:
    """Numbers of a channel."""
    return x.numel() // x.shape[1]
