"""The written-out derivatives of normalising, against finite differences and torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jvp, vmap

from lightning_maml.models.normalise import _Project, normalised

SHAPES = [(6, 3), (5, 2, 4), (3, 2, 4, 3)]
EPS = 0.3  # large, so that x_hat is far from having variance 1


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_batch_norm(shape) -> None:
    x = 3 * drawn(*shape) + 1
    torch.testing.assert_close(
        normalised(x, EPS), F.batch_norm(x, None, None, training=True, eps=EPS)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_both_orders_agree_with_finite_differences(shape) -> None:
    x = drawn(*shape).requires_grad_()

    def curved(x: Tensor) -> Tensor:
        return normalised(x, EPS).pow(3)

    assert gradcheck(curved, x, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(curved, x, check_fwd_over_rev=True, check_rev_over_rev=True)


def test_each_input_of_the_gradient_has_its_derivative() -> None:
    # On its own: x_hat need not be normalised.
    inputs = [drawn(4, 2, 3, seed=s).requires_grad_() for s in (1, 2)]
    inputs.append(drawn(2, seed=3).abs().requires_grad_())
    assert gradcheck(_Project.apply, inputs, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(_Project.apply, inputs, check_fwd_over_rev=True)


def test_third_derivatives_are_those_of_the_formula() -> None:
    x, b, c = (drawn(4, 2, 3, seed=s) for s in (1, 2, 3))

    def formula(x: Tensor) -> Tensor:
        var, mean = torch.var_mean(x, dim=(0, 2), keepdim=True, correction=0)
        return (x - mean) / (var + EPS).sqrt()

    def third(norm) -> Tensor:
        first = grad(lambda x: norm(x).pow(3).sum())
        second = grad(lambda x: (c * first(x)).sum())
        return jvp(lambda x: (b * second(x)).sum(), (x,), (c,))[1]

    torch.testing.assert_close(third(lambda x: normalised(x, EPS)), third(formula))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_products_with_the_hessian_are_those_of_torch_task_by_task(layout) -> None:
    tasks = [3 * drawn(4, 2, 6, 6, seed=s).contiguous(memory_format=layout) for s in (1, 2, 3)]
    directions = [drawn(4, 2, 6, 6, seed=s).contiguous(memory_format=layout) for s in (4, 5, 6)]

    def product(norm, x: Tensor, direction: Tensor) -> Tensor:
        return jvp(grad(lambda x: F.silu(norm(x)).square().sum()), (x,), (direction,))[1]

    def theirs(x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True, eps=EPS)

    ours = vmap(lambda x, d: product(lambda x: normalised(x, EPS), x, d))(
        torch.stack(tasks), torch.stack(directions)
    )
    expected = [product(theirs, x, d) for x, d in zip(tasks, directions, strict=True)]
    torch.testing.assert_close(ours, torch.stack(expected))
