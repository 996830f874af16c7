"""Meta-learner LSTM: gradient descent with pinned gates, a step weight by weight, learning."""

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_maml.baselines import EpisodicLearner, MetaLSTM
from lightning_maml.baselines.meta_lstm import Rule, State, preprocessed
from tests.baselines.test_metric_methods import FEATURES, tasks


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, 3))


def method(steps: int = 4) -> MetaLSTM:
    torch.manual_seed(0)
    return MetaLSTM(network(), steps, hidden=3).double()


def pin(rule: Rule, lr: float) -> None:
    """f = 1 and i = lr, whatever comes in."""
    for gate, bias in ((rule.forget, 50.0), (rule.put, math.log(lr / (1 - lr)))):
        nn.init.zeros_(gate.weight)
        nn.init.constant_(gate.bias, bias)


def test_with_pinned_gates_it_is_gradient_descent() -> None:
    model, episode = method(), tasks(2)
    pin(model.rule, 0.3)
    with torch.inference_mode():  # as in a Trainer's validation and test
        found = EpisodicLearner(model).outputs(episode)[0].clone()
    for t in range(2):
        plain = network().double()
        plain.load_state_dict(model.model.state_dict())
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.3)
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(plain(episode.support_x[t]), episode.support_y[t]).backward()
            optimizer.step()
        expected = plain(episode.query_x[t]).log_softmax(dim=1)
        torch.testing.assert_close(found[t], expected.detach())


@pytest.mark.parametrize("frozen", [0, 1], ids=["linear", "batch norm"])
def test_frozen_parameters_are_constants(frozen) -> None:
    """With pinned gates the rest descends; a frozen batch norm keeps its running statistics."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(FEATURES, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))
    plain[frozen].requires_grad_(False)
    episode, model = tasks(1), MetaLSTM(deepcopy(plain), steps=4, hidden=3).double()
    pin(model.rule, 0.3)
    found = model.adapted(episode.support_x[0], episode.support_y[0])
    model.training_loss(episode).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())

    plain.double()[1].train(frozen != 1)
    optimizer = torch.optim.SGD([p for p in plain.parameters() if p.requires_grad], lr=0.3)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(plain(episode.support_x[0]), episode.support_y[0]).backward()
        optimizer.step()
    assert list(found) == [name for name, _ in plain.named_parameters()]
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(found[name].detach(), parameter.detach())


def test_a_network_that_was_frozen_later_is_named() -> None:
    model, episode = method(), tasks(1)
    model.model.requires_grad_(False)
    with pytest.raises(ValueError, match="`model` must have trainable parameters, got Sequential"):
        model(*episode[:3])


class Doubled(nn.Linear):
    """Its forward doubles a buffer, in place or by a new one, and multiplies by it."""

    def __init__(self, in_place: bool) -> None:
        super().__init__(FEATURES, 3)
        self.register_buffer("factor", torch.ones(()))
        self.in_place = in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_place:
            self.factor.mul_(2)
        else:
            self.factor = 2 * self.factor
        return self.factor * super().forward(x)


@pytest.mark.parametrize("in_place", [True, False])
def test_what_a_network_writes_to_a_buffer_is_dropped(in_place) -> None:
    """So the factor is 2 in each call, of the support set and of the query set."""
    torch.manual_seed(0)
    model, episode = MetaLSTM(Doubled(in_place), steps=4, hidden=3).double(), tasks(1)
    found = model.adapted(episode.support_x[0], episode.support_y[0])
    loss = model.training_loss(episode)
    with torch.inference_mode():  # as in a Trainer's validation and test
        outputs = EpisodicLearner(model).outputs(episode)[0].clone()
    assert model.model.factor == 1
    logits = 2 * F.linear(episode.query_x[0], found["weight"], found["bias"])
    torch.testing.assert_close(outputs[0], logits.log_softmax(dim=1).detach())
    torch.testing.assert_close(loss, F.cross_entropy(logits, episode.query_y[0]))


def test_with_pinned_gates_the_gradient_is_that_of_first_order() -> None:
    """Gradients of the inner steps are constants: d theta_T / d theta_0 is the identity."""
    model, episode = method(), tasks(1)
    pin(model.rule, 0.3)
    model.training_loss(episode).backward()
    found = torch.cat([p.grad.flatten() for p in model.model.parameters()])
    plain = network().double()
    plain.load_state_dict(model.adapted(episode.support_x[0], episode.support_y[0]))
    F.cross_entropy(plain(episode.query_x[0]), episode.query_y[0]).backward()
    torch.testing.assert_close(found, torch.cat([p.grad.flatten() for p in plain.parameters()]))


def test_preprocessing_by_hand() -> None:
    x = torch.tensor([1.0, -math.exp(-5), math.exp(-11), 0.0, -math.exp(-12)], dtype=torch.float64)
    expected = [[0.0, 1.0], [-0.5, -1.0], [-1.0, math.exp(-1)], [-1.0, 0.0], [-1.0, -math.exp(-2)]]
    torch.testing.assert_close(preprocessed(x), torch.tensor(expected, dtype=torch.float64))


def test_a_step_is_that_of_its_equations_for_each_weight() -> None:
    """The gates see h, c_{t-1} and, as in the published code, their last value before the sigmoid.

    In the paper's equations it is that after it.
    """
    torch.manual_seed(1)
    rule = Rule(3).double()
    weights, gradient = torch.randn(2, 4, dtype=torch.float64)
    loss = torch.tensor(0.7, dtype=torch.float64)
    state = State.first(weights, 3)
    for _ in range(2):
        before, state = state, rule(state, gradient, loss)
        for w in range(4):
            seen = torch.cat([preprocessed(loss), preprocessed(gradient[w])])
            h, _ = rule.lstm(seen, (before.hidden[w], before.cell[w]))
            c = before.weights[w]
            f = rule.forget.weight[0] @ torch.stack([*h, c, before.forget[w]]) + rule.forget.bias[0]
            i = rule.put.weight[0] @ torch.stack([*h, c, before.put[w]]) + rule.put.bias[0]
            expected = torch.sigmoid(f) * c - torch.sigmoid(i) * gradient[w]
            torch.testing.assert_close(state.weights[w], expected)


@pytest.mark.parametrize(("precision", "close"), [("mixed", 0.0005), ("true", 0.004)])
def test_the_gates_are_not_rounded_in_half_precision(precision, close) -> None:
    """Of f near 0.99 bfloat16 makes an error of up to 0.002, 12 times over.

    The network alone may be rounded, and in bf16-true the adapted weights, at the end.
    """
    torch.manual_seed(0)
    model = MetaLSTM(network(), steps=12).bfloat16()
    exact, episode = deepcopy(model).float(), tasks(1)
    task = episode.support_x[0].float(), episode.support_y[0]
    expected = exact.adapted(*task)
    if precision == "mixed":
        with torch.autocast("cpu", torch.bfloat16):
            found = exact.adapted(*task)
    else:
        found = model.adapted(task[0].bfloat16(), task[1])
        assert all(weights.dtype == torch.bfloat16 for weights in found.values())
    error, size = (
        torch.cat([p.detach().flatten() for p in weights]).norm()
        for weights in ([found[name] - p for name, p in expected.items()], expected.values())
    )
    assert error < close * size


def test_it_starts_as_small_steps_and_learns() -> None:
    model = method()
    rule = model.rule
    assert 4 <= rule.forget.bias.item() <= 5
    assert -5 <= rule.put.bias.item() <= -4
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    before = model.training_loss(tasks(20, seed=99)).item()
    for seed in range(20):
        optimizer.zero_grad()
        model.training_loss(tasks(4, seed=seed)).backward()
        optimizer.step()
    assert model.training_loss(tasks(20, seed=99)).item() < before - 0.1


def test_wrong_steps_are_named() -> None:
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        method(steps=0)
