"""Training many networks, each on its task (App. C.1), against plain loops in float64."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from lightning_maml import Episode
from lightning_maml.baselines.many_networks import (
    Adam,
    Pull,
    Recipe,
    block_of_steps,
    mean_with,
    random_starts,
    train_networks,
)
from lightning_maml.losses import mse
from lightning_maml.models import MLP, ContextVector, Conv4

MODEL = nn.Linear(1, 1, dtype=torch.float64)


def loss(theta, x, y):  # type: ignore[no-untyped-def]
    return mse(functional_call(MODEL, theta, (x,)), y)


def lines(networks: int) -> Episode:
    """y = slope x + 1 at other points in the query set."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(networks, 20, 1, generator=g, dtype=torch.float64)
    y = torch.arange(1.0, networks + 1, dtype=torch.float64)[:, None, None] * x + 1
    return Episode(x[:, :12], y[:, :12], x[:, 12:], y[:, 12:])


def starts(networks: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(networks, *p.shape, generator=g, dtype=torch.float64)
        for name, p in MODEL.named_parameters()
    }


def one(theta: dict, i: int) -> dict:
    return {name: p[i] for name, p in theta.items()}


def alone(start: dict, task: Episode, strength: float, anchor: dict, recipe: Recipe):  # type: ignore[no-untyped-def]
    """One network by torch.optim.Adam and autograd; its parameters, loss and steps."""
    theta = {name: p.clone().requires_grad_() for name, p in start.items()}
    optimizer = torch.optim.Adam(theta.values(), lr=recipe.lr)
    for step in range(1, recipe.max_steps + 1):
        optimizer.zero_grad()
        penalty = sum((p - anchor[name]).square().sum() for name, p in theta.items())
        (loss(theta, task.support_x, task.support_y) + strength * penalty).backward()
        optimizer.step()
        if step % recipe.check_every == 0:
            with torch.no_grad():
                error = loss(theta, task.query_x, task.query_y)
            if error < recipe.target:
                return {name: p.detach() for name, p in theta.items()}, error, step
    raise AssertionError("not reached")


def nothing() -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(p) for name, p in MODEL.named_parameters()}


@pytest.mark.parametrize("strength", [0.0, 0.001])
def test_networks_together_are_those_trained_alone(strength) -> None:
    recipe, tasks, theta = Recipe(0.05, 0.02, 2000, 5), lines(4), starts(4)
    pull = Pull(torch.tensor(strength, dtype=torch.float64), nothing())
    found = train_networks(block_of_steps(loss, recipe), recipe, theta, tasks, pull)
    assert len(set(found.steps.tolist())) > 1  # or the test would not see when each one stops
    for i in range(4):
        task = Episode(*(part[i] for part in tasks))
        expected, error, steps = alone(one(theta, i), task, strength, nothing(), recipe)
        torch.testing.assert_close(one(found.theta, i), expected)
        assert found.steps[i] == steps
        assert found.loss[i] == pytest.approx(error.item(), rel=1e-6)
        assert found.loss[i] < 0.02


def test_each_network_is_drawn_to_the_mean_of_those_before() -> None:
    """Three networks one after another, by a naive loop that keeps them all."""
    recipe, tasks, theta, strength = Recipe(0.05, 0.3, 5000, 5), lines(3), starts(3), 0.02
    done: list[dict] = []
    for i in range(3):
        means = {n: torch.stack([d[n] for d in done]).mean(0) for n in nothing()} if done else None
        task = Episode(*(part[i] for part in tasks))
        weight = strength if done else 0.0
        done.append(alone(one(theta, i), task, weight, means or nothing(), recipe)[0])

    block, mean, found = block_of_steps(loss, recipe), nothing(), []
    for i in range(3):
        pull = Pull(torch.tensor(strength if i else 0.0, dtype=torch.float64), mean)
        start = {n: p[i : i + 1] for n, p in theta.items()}
        task = Episode(*(part[i : i + 1] for part in tasks))
        trained = train_networks(block, recipe, start, task, pull)
        mean = mean_with(mean, i, trained.theta)
        found.append(one(trained.theta, 0))
    for ours, naive in zip(found, done, strict=True):
        torch.testing.assert_close(ours, naive)
    expected = {n: torch.stack([d[n] for d in done]).mean(0) for n in nothing()}
    torch.testing.assert_close(mean, expected)
    free = alone(one(theta, 2), Episode(*(p[2] for p in tasks)), 0.0, nothing(), recipe)[0]
    assert (free["weight"] - done[2]["weight"]).abs() > 1e-3  # the penalty was felt


@pytest.mark.parametrize("anchor", [0.0, 3.0])
def test_the_penalty_of_a_quadratic_has_a_known_minimum(anchor) -> None:
    """(w - 1)^2 + strength (w - anchor)^2 is least at (1 + strength anchor) / (1 + strength)."""

    def quadratic(theta, x, y):  # type: ignore[no-untyped-def]
        return (theta["w"] - 1) ** 2 + 0 * x.sum()

    number = torch.zeros(1, 1, 1, dtype=torch.float64)
    pull = Pull(torch.tensor(0.5), {"w": torch.tensor(anchor, dtype=torch.float64)})
    recipe = Recipe(0.01, 1e-30, 3000)
    trained = train_networks(
        block_of_steps(quadratic, recipe), recipe, {"w": torch.zeros(1, dtype=torch.float64)},
        Episode(*[number] * 4), pull,
    )  # fmt: skip
    assert trained.theta["w"].item() == pytest.approx((1 + 0.5 * anchor) / 1.5, abs=1e-6)
    assert trained.steps.tolist() == [0]  # the target was not reached


def test_adam_is_that_of_torch() -> None:
    theta = {"w": torch.tensor([1.0, -2.0], dtype=torch.float64)}
    state, reference = Adam.start(theta), theta["w"].clone().requires_grad_()
    optimizer = torch.optim.Adam([reference], lr=0.1)
    for step in range(5):
        reference.grad = (step + 1) * reference.detach() ** 2
        theta, state = state.update(theta, {"w": (step + 1) * theta["w"] ** 2}, 0.1)
        optimizer.step()
        torch.testing.assert_close(theta["w"], reference.detach())


def test_random_starts_differ_and_follow_the_models_own_way() -> None:
    fresh = random_starts(MLP(), 3)["layers.1.weight"]
    assert fresh.shape == (3, 40, 40)
    assert not torch.equal(fresh[0], fresh[1])
    assert fresh.abs().max() <= 40**-0.5
    assert random_starts(MLP(init="truncated_normal"), 2)["head.weight"].abs().max() <= 0.02
    starts = random_starts(ContextVector(Conv4(3, 2), 1), 2)
    assert not starts["context"].any()
    assert not starts["model.blocks.0.norm.bias"].any()


def test_a_layer_that_cannot_start_anew_is_refused() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError, match=r"`reset_parameters`.*`1`, a Own"):
        random_starts(nn.Sequential(nn.Linear(1, 1), Own()), 2)
