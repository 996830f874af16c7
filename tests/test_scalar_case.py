"""The scalar case whose values are known by hand: f(x) = w x, w = 2, alpha = 0.25.

Support (1, 0), query (2, 3), squared error. A step maps w to w / 2, as its gradient is 2 w.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml import Episode, MetaLearner, maml_loss
from lightning_maml.meta_gradient import DERIVATIONS

# inner steps: adapted w, query loss, meta-gradient, first-order gradient
TABLE = {0: (2, 1, 4, 4), 1: (1, 1, -2, -4), 2: (0.5, 4, -2, -8), 3: (0.25, 6.25, -1.25, -10)}
EXACT = {"rtol": 0, "atol": 1e-9}


def scalar_model(w: float = 2.0) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, w)
    return model


def scalar_task(query_y: float = 3.0) -> Episode:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    return Episode(one, 0 * one, 2 * one, query_y * one)


def learner(**settings: object) -> MetaLearner:
    settings = {"loss": F.mse_loss, "inner_lr": 0.25, **settings}
    return MetaLearner(scalar_model(), **settings)


def number(value: float) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("derivation", DERIVATIONS)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", TABLE)
def test_every_row(steps: int, first_order: bool, derivation: str, compile: bool) -> None:
    """A01, A02: second order is -2 after one step and first order -4; with 0 steps both are 4."""
    adapted, loss, second, first = TABLE[steps]
    maml = learner(
        inner_steps=steps, first_order=first_order, derivation=derivation, compile=compile
    )
    value = maml.meta_loss(scalar_task())
    value.backward()
    torch.testing.assert_close(value.detach(), number(loss), **EXACT)
    expected = number(first if first_order else second)
    torch.testing.assert_close(maml.model.weight.grad.squeeze(), expected, **EXACT)
    theta = maml.adapt(torch.ones(1, 1).double(), torch.zeros(1, 1).double())
    torch.testing.assert_close(theta["weight"].squeeze(), number(adapted), **EXACT)


def test_plain_pytorch_call_gives_the_same_numbers() -> None:
    model = scalar_model()
    maml_loss(model, F.mse_loss, scalar_task(), inner_lr=0.25, inner_steps=3).backward()
    torch.testing.assert_close(model.weight.grad.squeeze(), number(-1.25), **EXACT)


def test_meta_gradient_is_the_mean_over_tasks() -> None:
    """A03: 1 with a second task of query y = 0, not the sum 2; doubled tasks change nothing."""
    two = Episode(*map(torch.cat, zip(scalar_task(), scalar_task(0.0), strict=True)))
    twice = Episode(*(torch.cat([part, part]) for part in two))
    for episode in (two, twice):
        maml = learner()
        maml.meta_loss(episode).backward()
        torch.testing.assert_close(maml.model.weight.grad.squeeze(), number(1.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_everything_works_whatever_autograd_mode_is_around(around: object) -> None:
    """A15: query losses 1, 1, 4, 6.25 also where autograd is off."""
    maml = learner(eval_inner_steps=3)
    with around():
        curve = maml.evaluate(scalar_task())
        value = maml.meta_loss(scalar_task())
        theta = maml.adapt(torch.ones(1, 1).double(), torch.zeros(1, 1).double(), inner_steps=2)
    expected = torch.tensor([[1.0], [1.0], [4.0], [6.25]], dtype=torch.float64)
    torch.testing.assert_close(curve.loss, expected, **EXACT)
    torch.testing.assert_close(curve.metric, expected, **EXACT)
    torch.testing.assert_close(theta["weight"].squeeze(), number(0.5), **EXACT)
    assert value.requires_grad == (around is torch.enable_grad)
    assert value.item() == 1.0


def test_a_diverging_inner_loop_has_the_values_it_should() -> None:
    """A09: with alpha = 2 each step multiplies w by -3, so w = -486 after five."""
    theta = learner(inner_lr=2.0).adapt(
        torch.ones(1, 1).double(), torch.zeros(1, 1).double(), inner_steps=5
    )
    torch.testing.assert_close(theta["weight"].squeeze(), number(-486.0), **EXACT)


def test_an_inner_lr_of_zero_adapts_nothing() -> None:
    maml = learner(inner_lr=0.0, inner_steps=3)
    maml.meta_loss(scalar_task()).backward()
    torch.testing.assert_close(maml.model.weight.grad.squeeze(), number(4.0), **EXACT)


def test_gradients_add_up_over_backward_calls_and_scale_with_the_loss() -> None:
    maml = learner()
    maml.meta_loss(scalar_task()).backward()
    (3 * maml.meta_loss(scalar_task())).backward()
    torch.testing.assert_close(maml.model.weight.grad.squeeze(), number(-8.0), **EXACT)


def test_step_sizes_per_step_act_in_their_order() -> None:
    """A step multiplies w by 1 - 2 alpha: 2 -> 1.6 -> 0.64 with 0.1 and 0.3, whose last stays."""
    maml = learner(inner_steps=2, learn_inner_lr="per_tensor_and_step")
    with torch.no_grad():
        maml.inner_lrs["weight"].copy_(torch.tensor([0.1, 0.3]))
    one = torch.ones(1, 1).double()
    for steps, w in enumerate((2.0, 1.6, 0.64, 0.256)):
        theta = maml.adapt(one, 0 * one, inner_steps=steps)
        torch.testing.assert_close(theta["weight"].squeeze(), number(w), rtol=1e-6, atol=0)
    maml.meta_loss(scalar_task()).backward()
    # L = (2 w'' - 3)^2 with w'' = 2 (1 - 2 a0) (1 - 2 a1): dL/da0 = 4 (2 w'' - 3) -4 (1 - 2 a1)
    outer = 4 * (2 * 0.64 - 3)
    expected = torch.tensor([outer * -4 * 0.4, outer * -4 * 0.8], dtype=torch.float64)
    torch.testing.assert_close(maml.inner_lrs["weight"].grad, expected, rtol=1e-6, atol=0)
