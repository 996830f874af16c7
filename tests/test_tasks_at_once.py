"""The size that "auto" picks: within its budget, the same each time, and said."""

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_maml import Episode, MetaLearner, tasks_at_once
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.models import MLP, Conv4
from lightning_maml.step_sizes import StepSizes
from lightning_maml.tasks_at_once import resolve_tasks_at_once, written_bytes
from tests.cases import CASES, flat, meta_gradient, relative_error


def images(tasks: int, support: int, query: int, size: int, channels: int = 1) -> Episode:
    shape = channels, size, size
    labels = [torch.zeros(tasks, n, dtype=torch.int64) for n in (support, query)]
    inputs = [torch.zeros(tasks, n, *shape) for n in (support, query)]
    return Episode(inputs[0], labels[0], inputs[1], labels[1])


class Functional(nn.Module):
    """Layers of 5 and 2 outputs; what is between them is no module, and a view writes nothing."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.second(F.relu(self.first(x)).view(-1, 5))


def test_what_a_forward_pass_writes_is_counted() -> None:
    """By hand: 3 support and 4 query examples, 5 + 5 + 2 numbers of 4 bytes each."""
    model = Functional()
    episode = Episode(
        torch.zeros(1, 3, 6), torch.zeros(1, 3, 2), torch.zeros(1, 4, 6), torch.zeros(1, 4, 2)
    )
    assert written_bytes(model, episode) == (3 + 4) * (5 + 5 + 2) * 4


def test_attention_is_counted_whole() -> None:
    """At least its three projections and its output."""
    attention = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
    x = torch.zeros(1, 3, 10, 16)
    assert written_bytes(attention, Episode(x, x, x, x)) > 2 * 3 * 10 * 4 * 16 * 4


@pytest.mark.parametrize(
    ("model", "episode", "size"),
    [
        (Conv4(5), images(32, 5, 5, 28), 32),
        (Conv4(20), images(16, 20, 20, 28), 8),
        (Conv4(5, 3, 32, 84, "max_pool", "flatten"), images(4, 5, 75, 84, 3), 1),
    ],
    ids=["omniglot_5way", "omniglot_20way", "mini"],
)
def test_it_picks_what_was_measured_fastest_on_a_cpu(model, episode, size) -> None:
    assert resolve_tasks_at_once("auto", model, episode) == size


def test_chunks_are_of_about_the_same_size(monkeypatch, caplog) -> None:
    model, episode = Conv4(5), images(10, 5, 5, 28)
    monkeypatch.setattr(tasks_at_once, "CACHED", 6 * written_bytes(model, episode))
    with caplog.at_level(logging.INFO):
        assert resolve_tasks_at_once("auto", model, episode) == 5  # not 6 and 4
    assert "Tasks at once: 5 of 10 (a forward pass of one writes 2.0 MB" in caplog.text


def test_one_task_is_run_whatever_it_takes(monkeypatch) -> None:
    monkeypatch.setattr(tasks_at_once, "CACHED", 1)
    assert resolve_tasks_at_once("auto", Conv4(5), images(10, 5, 5, 28)) == 1


def test_recurrent_layers_go_one_by_one() -> None:
    case = CASES["lstm"]
    assert resolve_tasks_at_once("auto", case.model(), case.episode(tasks=3)) == 1


def test_no_random_number_is_drawn_and_the_mode_is_kept() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    episode = Episode(*[torch.zeros(2, 4, 3)] * 4)
    before = torch.get_rng_state()
    resolve_tasks_at_once("auto", model, episode)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert model[1].training


def test_the_engine_uses_it_once_for_each_shape(monkeypatch, caplog) -> None:
    case = CASES["conv4"]
    monkeypatch.setattr(
        tasks_at_once, "CACHED", 2 * written_bytes(case.model(), case.episode(tasks=4))
    )
    engine = case.engine(tasks_at_once="auto")
    episode = case.episode(tasks=4)
    loop = InnerLoop(1, StepSizes(0.1))
    with caplog.at_level(logging.INFO):
        results = [meta_gradient(engine, loop, episode) for _ in range(2)]
    assert caplog.text.count("Tasks at once: 2 of 4") == 1
    every = meta_gradient(case.engine(tasks_at_once=4), loop, episode)
    for result in results:
        assert relative_error(flat(result), flat(every)) < 1e-10


@pytest.mark.parametrize("wrong", [0, -1, "all", 1.5, True])
def test_other_settings_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=r"`tasks_at_once` must be .*auto.*, got"):
        MetaLearner(MLP(), loss=F.mse_loss, tasks_at_once=wrong)
