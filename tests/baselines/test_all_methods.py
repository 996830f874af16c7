"""Every method without an inner loop: nothing leaks by position, between tasks or queries."""

import math
import re
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Literal

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from datamodules import Glyphs
from lightning_maml import Episode
from lightning_maml.baselines import (
    MANN,
    EpisodicLearner,
    MatchingNets,
    MemoryModule,
    MetaLSTM,
    PrototypicalNets,
    SiameseNets,
)
from lightning_maml.run import progress
from tests.baselines import test_meta_lstm, test_neural_statistician
from tests.baselines.test_memory_methods import small_mann, small_memory
from tests.baselines.test_metric_methods import FEATURES, METHODS
from tests.test_meta_learner import loader, trainer


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


class Seed(Callback):
    def on_train_batch_start(self, *_: object) -> None:
        torch.manual_seed(5)


def test_a_training_step_descends_the_methods_own_loss(case, tmp_path) -> None:
    """In training mode; SGD of rate 0.1."""
    (learner, shape), sgd = case, partial(torch.optim.SGD, lr=0.1)
    alone, episode = deepcopy(learner.model), noise(2, shape)
    run = trainer(tmp_path, precision="64-true", callbacks=[Seed()])
    torch.manual_seed(5)
    with run.precision_plugin.forward_context():  # 64 bits of each random number, too
        alone.train().training_loss(episode).backward()
    run.fit(EpisodicLearner(learner.model, optimizer=sgd), loader(episode))
    for found, parameter in zip(learner.model.parameters(), alone.parameters(), strict=True):
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found.detach(), parameter.detach() - 0.1 * gradient)


def test_the_progress_bar_shows_the_metric(case, tmp_path, monkeypatch) -> None:
    """There is none before inner steps."""
    (learner, shape), shown = case, []
    monkeypatch.setattr(progress.tqdm, "set_postfix_str", lambda _, text, **__: shown.append(text))
    settings = {"enable_progress_bar": True, "log_every_n_steps": 1, "precision": "64-true"}
    run = trainer(tmp_path, callbacks=[progress.MetaProgressBar()], **settings)
    run.fit(learner, loader(noise(2, shape)))
    assert re.fullmatch(r"loss [\d.e-]+, accuracy [\d.]+, [\d.]+k? tasks/s", shown[-1])


def solve(model: nn.Module, *shape: int, scale: float = 1.0) -> None:
    episode = noise(1, shape)
    model.double()(scale * episode.support_x, *episode[1:3])


def train(model: nn.Module, *shape: int, labels: list[int]) -> None:
    episode = noise(1, shape)._replace(query_y=torch.tensor([labels]))
    model.double().training_loss(episode)


def wide(features: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, features))


statistician = test_neural_statistician.method


def test_frozen_batch_norm_of_an_encoder_keeps_its_statistics() -> None:
    """In training, too, where another layer of it goes by the batch."""
    encoder = nn.Sequential(nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 4), nn.BatchNorm1d(4))
    encoder[0].requires_grad_(False)
    with torch.no_grad():
        encoder[0].running_mean.uniform_()
    learner = EpisodicLearner(PrototypicalNets(encoder.double())).train()
    frozen, free = (learner.model.encoder[k] for k in (0, 2))
    before = [norm.running_mean.clone() for norm in (frozen, free)]
    seen: list[torch.Tensor] = []
    frozen.register_forward_hook(lambda _, inputs, output: seen.extend([*inputs, output]))
    learner.meta_loss(noise(2, (FEATURES,)))
    torch.testing.assert_close(seen[1], (seen[0] - before[0]) / math.sqrt(1 + frozen.eps))
    assert torch.equal(frozen.running_mean, before[0])
    assert not torch.equal(free.running_mean, before[1])


def test_more_classes_than_a_method_can_tell_apart_are_refused_at_once(tmp_path) -> None:
    data = Glyphs(
        n_way=3, eval_n_way=4, k_shot=1, query_shot=1, characters=(6, 6, 6), drawings=2,
        train_batches_per_epoch=2, val_tasks=2, test_tasks=2,
    )  # fmt: skip
    learner = EpisodicLearner(MANN(3, image_size=4, hidden=8, slots=6, width=4, heads=2))
    with pytest.raises(ValueError, match="`eval_n_way` must be at most 3, the outputs of the"):
        trainer(tmp_path, max_epochs=1).fit(learner, datamodule=data)
    assert learner.global_step == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MANN(5, heads=0), "`heads` must be at least 1, got 0"),
        (lambda: MANN(5, slots=0), "`slots` must be at least 4, one for .*`heads`, got 0"),
        (lambda: MANN(5, slots=3), "`slots` must be at least 4, one for .*`heads`, got 3"),
        (lambda: solve(MANN(2), 1, 28, 28), "`n_way` must be at least 3, .*got 2"),
        (lambda: MemoryModule(wide(8), slots=0), "`slots` must be at least 1, got 0"),
        (lambda: MemoryModule(wide(8), margin=-0.1), "`margin` must be .* >= 0, got -0.1"),
        (lambda: MemoryModule(wide(8), margin=math.nan), "`margin` must be .* >= 0, got nan"),
        (lambda: solve(MemoryModule(wide(8), 8, 5), 4, 4), "`slots` must be at least 6, .*got 5"),
        (
            lambda: train(MemoryModule(wide(8), 8, 11), 4, 4, labels=[0, 0, 1, 1, 2, 2]),
            "`slots` must be at least 12, the number of support and query examples.*, got 11",
        ),
        (lambda: solve(MemoryModule(wide(8), 7), 4, 4), "`features` must be 8, .*got 7"),
        (lambda: solve(SiameseNets(wide(8), 7), 4, 4), "`features` must be 8, .*got 7"),
        (
            lambda: solve(MatchingNets(wide(8), context_steps=1, features=7), 4, 4),
            "`features` must be 8, .*got 7",
        ),
        (lambda: MetaLSTM(nn.Linear(4, 3), 1, hidden=0), "`hidden` must be at least 1, got 0"),
        (
            lambda: solve(MetaLSTM(nn.Linear(4, 2), 1), 4),
            "`model` must have an output for each of the 3 classes of a task, got 2",
        ),
        (lambda: solve(statistician(), 3, 28, 28), r"`support_x` must .*\[1, 28, 28\], got \[3,"),
        (lambda: solve(statistician(), 1, 32, 32), r"`support_x` must .*, got \[1, 32, 32\]"),
        (lambda: solve(statistician(), 1, 28, 28, scale=255), r"`support_x` must .*\[0, 1\]"),
        (
            lambda: train(statistician(), 1, 28, 28, labels=[0, 0, 0, 1, 1, 1]),
            r"`query_y` must hold each class equally often, got \[0, 3\] times",
        ),
    ],
)
def test_wrong_settings_are_named(call, message) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)
