"""Every method without an inner loop: nothing leaks by position, between tasks or queries."""

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import nn

from lightning_maml import Episode
from lightning_maml.baselines import EpisodicLearner, MetaLSTM, SiameseNets
from tests.baselines import test_meta_lstm, test_neural_statistician
from tests.baselines.test_memory_methods import small_mann, small_memory
from tests.baselines.test_metric_methods import FEATURES, METHODS


def meta_lstm() -> MetaLSTM:
    """It adapts visibly."""
    model = test_meta_lstm.method()
    test_meta_lstm.pin(model.rule, 0.5)
    return model


def siamese(class_score: Literal["mean", "nearest"]) -> SiameseNets:
    """A smaller distance makes the same class more probable."""
    model = SiameseNets(nn.Linear(FEATURES, FEATURES), FEATURES, class_score)
    nn.init.constant_(model.same.weight, -10)
    return model


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]  # a method, and the shape of its examples
CASES: dict[str, Case] = {name: (make, (FEATURES,)) for name, make in METHODS.items()}
CASES |= {
    "siamese": (lambda: siamese("mean"), (FEATURES,)),
    "siamese, nearest": (lambda: siamese("nearest"), (FEATURES,)),
    "meta-learner LSTM": (meta_lstm, (FEATURES,)),
    "MANN": (small_mann, (1, 4, 4)),
    "memory module": (small_memory, (1, 4, 4)),
    "neural statistician": (test_neural_statistician.method, (1, 28, 28)),
}
N_WAY = 3


def noise(tasks: int, shape: tuple[int, ...]) -> Episode:
    """Pure noise, float64; two examples a class, support and query in the same order of classes."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(N_WAY).repeat_interleave(2).repeat(tasks, 1)
    support, query = torch.rand(2, *y.shape, *shape, generator=g, dtype=torch.float64)
    return Episode(support, y, query, y)


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request) -> tuple[EpisodicLearner, tuple[int, ...]]:
    torch.manual_seed(0)
    make, shape = request.param
    return EpisodicLearner(make().double()), shape


def test_nothing_is_known_of_noise(case) -> None:
    """Queries of a task are not independent, so the task is the unit."""
    learner, shape = case
    right = learner.evaluate(noise(80, shape)).metric[0].double()
    error = right.std() / math.sqrt(len(right))
    assert abs(right.mean() - 1 / N_WAY) <= 3 * error + 1e-6  # 0 if all get the same class


def test_queries_in_another_order_get_the_same_answers(case) -> None:
    learner, shape = case
    episode, order = noise(3, shape), torch.tensor([3, 0, 5, 1, 4, 2])
    other = episode._replace(query_x=episode.query_x[:, order], query_y=episode.query_y[:, order])
    torch.testing.assert_close(learner.outputs(other), learner.outputs(episode)[:, :, order])
    torch.testing.assert_close(learner.evaluate(other), learner.evaluate(episode))


def test_tasks_and_queries_are_apart(case) -> None:
    learner, shape = case
    episode = noise(3, shape)
    whole = learner.outputs(episode)[0]
    torch.testing.assert_close(whole.exp().sum(-1), torch.ones_like(whole[..., 0]))
    for t in range(3):
        one = Episode(*(part[t : t + 1] for part in episode))
        torch.testing.assert_close(learner.outputs(one)[0, 0], whole[t])
        alone = one._replace(query_x=one.query_x[:, 4:5], query_y=one.query_y[:, 4:5])
        torch.testing.assert_close(learner.outputs(alone)[0, 0, 0], whole[t, 4])
