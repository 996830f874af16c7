"""The context vector (App. C.2): a setting of the one inner loop."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_maml import Episode
from lightning_maml.engine import Engine
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.models import MLP, ContextVector, Conv4, OmniglotDense
from lightning_maml.step_sizes import StepSizes
from tests.cases import flat, relative_error
from tests.naive_maml import naive_meta_gradient


def images(tasks: int = 3) -> Episode:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(tasks, 2, 6, 1, 16, 16, generator=g, dtype=torch.float64)
    y = torch.arange(6).remainder(3).expand(tasks, -1).contiguous()
    return Episode(x[:, 0], y, x[:, 1], y)


def points(tasks: int = 3) -> Episode:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(tasks, 2, 6, 1, generator=g, dtype=torch.float64)
    y = torch.randn(tasks, 1, 1, 1, generator=g, dtype=torch.float64) * x.sin()
    return Episode(x[:, 0], y[:, 0], x[:, 1], y[:, 1])


CASES = {
    "mlp": (lambda: ContextVector(MLP(in_features=4), 3), points, F.mse_loss),
    "conv4_vector": (
        lambda: ContextVector(Conv4(3, 3, 4, 16), 2), images, F.cross_entropy,
    ),
    "conv4_image": (
        lambda: ContextVector(Conv4(3, 2, 4, 16), [1, 16, 16]), images, F.cross_entropy,
    ),
    "dense": (
        lambda: ContextVector(
            OmniglotDense(3, image_size=16, hidden=(8, 8), in_channels=3), [2, 16, 16]
        ),
        images, F.cross_entropy,
    ),
}  # fmt: skip
every_network = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
LOOP = InnerLoop(2, StepSizes(0.5))


def make(case, **settings):  # type: ignore[no-untyped-def]
    network, episode, loss = case
    torch.manual_seed(0)
    model = network().double()
    # At zero, as at the start, a wrong sign or a wrong place of the context could go unseen.
    with torch.no_grad():
        model.context.normal_(std=0.3)
    return Engine(model, loss, adapts=["context"], **settings), episode()


def test_it_starts_at_zero_beside_the_input() -> None:
    seen = []

    class Seeing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x

    model, x = ContextVector(Seeing(), 2), torch.randn(5, 3)
    torch.testing.assert_close(model(x), torch.cat([x, torch.zeros(5, 2)], dim=1))
    with torch.no_grad():
        model.context.copy_(torch.tensor([7.0, 8.0]))
    torch.testing.assert_close(model(x)[:, 3:], torch.tensor([[7.0, 8.0]]).expand(5, -1))
    image = model(torch.randn(5, 1, 4, 6))
    assert image.shape == (5, 3, 4, 6)
    assert (image[:, 1] == 7).all()
    assert (image[:, 2] == 8).all()
    free = ContextVector(Seeing(), (1, 4, 6))
    with torch.no_grad():
        free.context.normal_()
    assert torch.equal(free(torch.randn(5, 1, 4, 6))[2, 1:], free.context)


@every_network
def test_the_inner_loop_changes_the_context_and_not_a_bit_of_the_rest(case) -> None:
    engine, episode = make(case)
    adapted = engine.adapt(LOOP, episode.support_x[0], episode.support_y[0])
    for name, parameter in engine.model.named_parameters():
        assert torch.equal(adapted[name], parameter) == (name != "context")


@every_network
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("tasks_at_once", [1, None])
def test_meta_gradient_equals_the_naive_loop(case, first_order, tasks_at_once) -> None:
    engine, episode = make(case, tasks_at_once=tasks_at_once)
    loop = InnerLoop(2, StepSizes(0.5), first_order)
    result = engine.meta_gradient(loop, episode)
    loss, grads = naive_meta_gradient(
        engine.model, engine.loss, episode, 0.5, 2, first_order, adapts={"context"}
    )
    torch.testing.assert_close(result.loss, loss)
    found = {**result.grads.adapted, **result.grads.held}
    assert set(result.grads.adapted) == {"context"}
    for name, grad in grads.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-9, atol=1e-11)
        assert grad.abs().max() > 0 or name.endswith("conv.bias") or "linear.bias" in name


def test_meta_gradient_agrees_with_finite_differences() -> None:
    engine, episode = make(CASES["mlp"])
    result, eps, generator = engine.meta_gradient(LOOP, episode), 1e-6, torch.Generator()
    parameters = dict(engine.model.named_parameters())
    grads = {**result.grads.adapted, **result.grads.held}
    direction = {
        name: torch.randn(p.shape, generator=generator.manual_seed(2), dtype=p.dtype)
        for name, p in parameters.items()
    }
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, p in parameters.items():
                p.add_(direction[name], alpha=sign * eps)
            values.append(engine.meta_gradient(LOOP, episode).loss)
            for name, p in parameters.items():
                p.sub_(direction[name], alpha=sign * eps)
    slope = sum((grads[name] * direction[name]).sum() for name in grads)
    assert relative_error((values[0] - values[1]) / (2 * eps), slope) < 1e-6


@pytest.mark.parametrize("name", ["mlp", "conv4_image"])
def test_derivations_agree_and_so_does_compiled(name) -> None:
    engine, episode = make(CASES[name])
    expected = flat(engine.meta_gradient(LOOP, episode))
    unrolled, _ = make(CASES[name], derivation="unrolled")
    assert relative_error(flat(unrolled.meta_gradient(LOOP, episode)), expected) < 1e-10
    if name == "mlp":
        compiled, _ = make(CASES[name], compile="auto")
        assert relative_error(flat(compiled.meta_gradient(LOOP, episode)), expected) < 1e-10


@pytest.mark.parametrize("size", [0, [], [1, 0], -2])
def test_sizes_that_are_none_are_refused(size) -> None:
    with pytest.raises(ValueError, match=r"`size` must be a number >= 1"):
        ContextVector(MLP(), size)


def test_a_size_that_does_not_fit_the_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`size` must be .*\[channels, 16, 16\].*\[1, 8, 8\]"):
        ContextVector(Conv4(3, 2, 4, 16), [1, 8, 8])(torch.zeros(2, 1, 16, 16))
