"""Pretrained classifiers: fine-tuning as a plain loop, neighbours by brute force."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from datamodules.settings import Shots
from lightning_maml import Episode
from lightning_maml.baselines import PretrainedClassifier
from lightning_maml.baselines.nearest_neighbour import class_similarities
from lightning_maml.models import EpisodeBatchNorm

WAYS, CLASSES, FEATURES = 3, 7, 4


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Result files go to the working directory where there is no logger."""
    monkeypatch.chdir(tmp_path)


class Network(nn.Module):
    """Two layers; the last one is replaced in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(FEATURES, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[N, 4] -> [N, 7]``."""
        return self.head(torch.tanh(self.body(x)))


def tasks(count: int, classes: int, seed: int) -> Episode:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(count, classes, FEATURES, generator=generator)
    y = torch.arange(classes).repeat(count, 4)
    noise = torch.randn(count, 4 * classes, FEATURES, generator=generator)
    x = centres.repeat(1, 4, 1) + 0.7 * noise
    half = 2 * classes
    return Episode(x[:, :half], y[:, :half], x[:, half:], y[:, half:])


class Data(LightningDataModule):
    """All classes in training, tasks of three in validation and test."""

    def train_dataloader(self) -> DataLoader[Episode]:
        """Five batches of the same seven classes."""
        return DataLoader([tasks(1, CLASSES, 0)] * 5, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Episode]:
        """Two batches of tasks."""
        return DataLoader([tasks(4, WAYS, 1), tasks(3, WAYS, 2)], batch_size=None)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[Episode]:
        """One batch."""
        return DataLoader([tasks(5, WAYS, 3)], batch_size=None)  # type: ignore[arg-type]


def learner(**settings: Any) -> PretrainedClassifier:
    torch.manual_seed(0)
    return PretrainedClassifier(
        Network(), **{"n_way": WAYS, "eval_inner_steps": 3, "loss": F.cross_entropy} | settings
    )


def trainer(**settings: Any) -> Trainer:
    quiet = {
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "accelerator": "cpu", "num_sanity_val_steps": 0,
        "fast_dev_run": False,
    }  # fmt: skip
    return Trainer(**quiet | settings)


def fine_tuned_accuracy(
    trained: nn.Module, episode: Episode, lr: float, decay: float, steps: int
) -> torch.Tensor:
    """A plain loop with torch's SGD: mean accuracy after 0 .. `steps` steps."""
    curves = []
    for sx, sy, qx, qy in zip(*episode, strict=True):
        model = Network()
        model.load_state_dict(trained.state_dict())
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model.head = nn.Linear(6, WAYS)
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        curve = []
        for step in range(steps + 1):
            curve.append((model(qx).argmax(1) == qy).float().mean())
            optimizer.zero_grad()
            F.cross_entropy(model(sx), sy).backward()
            optimizer.param_groups[0]["lr"] = lr / (1 + decay * step)
            optimizer.step()
        curves.append(torch.stack(curve).detach())
    return torch.stack(curves).mean(dim=0)


def test_fine_tuning_is_plain_sgd_with_the_best_of_the_grid() -> None:
    lrs, decays = (0.001, 0.3, 2.0), (0.0, 1.0)
    maml = learner(fine_tuning_lrs=lrs, fine_tuning_decays=decays)
    run = trainer(max_epochs=2)
    data = Data()
    run.fit(maml, data)
    (logged,) = run.test(maml, data, verbose=False)
    trained = Network()
    trained.load_state_dict(maml.model.state_dict())
    (a, b), (test,) = data.val_dataloader(), data.test_dataloader()
    means = []
    for lr, decay in product(lrs, decays):
        last = [4 * fine_tuned_accuracy(trained, a, lr, decay, 3)[-1]]
        last += [3 * fine_tuned_accuracy(trained, b, lr, decay, 3)[-1]]
        means.append(float(sum(last)) / 7)
    facts = maml.result_facts()["tuning"]
    assert facts["val_means"] == pytest.approx(means, abs=1e-6)
    best = [*product(lrs, decays)][means.index(max(means))]
    assert tuple(facts["chosen"]) == best
    expected = fine_tuned_accuracy(trained, test, *best, 3)
    measured = [logged[f"test/accuracy_step{k}"] for k in range(4)]
    assert measured == pytest.approx(expected.tolist(), abs=1e-6)
    assert measured[-1] > measured[0]


def test_training_tells_all_classes_apart_and_goes_on_after_a_validation() -> None:
    maml = learner(meta_lr=0.05)
    episode = tasks(1, CLASSES, 0)
    before = F.cross_entropy(maml.model(episode.query_x[0]), episode.query_y[0])
    run = trainer(max_epochs=4, log_every_n_steps=1)
    run.fit(maml, Data())  # a validation after each
    assert float(run.callback_metrics["train/accuracy"]) > 1 / CLASSES
    after = F.cross_entropy(maml.model(episode.query_x[0]), episode.query_y[0])
    assert after < 0.5 * before
    assert maml.model.head.out_features == CLASSES


def test_a_fit_after_a_test_trains_the_network_itself() -> None:
    maml = learner(meta_lr=0.05)
    trainer().test(maml, Data(), verbose=False)
    before = maml.model.body.weight.clone()
    trainer(max_epochs=1).fit(maml, Data())
    assert not torch.equal(maml.model.body.weight, before)


def test_neighbours_are_those_of_a_loop() -> None:
    generator = torch.Generator().manual_seed(4)
    support, query = (torch.randn(n, 6, generator=generator) for n in (9, 20))
    labels = torch.tensor([0, 1, 2] * 3)
    scores = class_similarities(support, labels, query, WAYS)
    for one, row in zip(query, scores, strict=True):
        cosines = [float(one @ s / (one.norm() * s.norm())) for s in support]
        assert row.argmax() == labels[cosines.index(max(cosines))]
        assert float(row.max()) == pytest.approx(max(cosines), abs=1e-6)
    missing = class_similarities(support, labels.clamp(max=1), query, WAYS)
    assert (missing[:, 2] == -1).all()


def test_nearest_neighbours_use_the_features_before_the_last_layer() -> None:
    maml = learner(classify_by="nearest_neighbour")
    data = Data()
    (logged,) = trainer().test(maml, data, verbose=False)
    (test,) = data.test_dataloader()
    right = []
    for sx, sy, qx, qy in zip(*test, strict=True):
        support, query = (torch.tanh(maml.model.body(x)) for x in (sx, qx))
        cosines = F.cosine_similarity(query[:, None], support[None], dim=2)
        right.append((sy[cosines.argmax(dim=1)] == qy).float().mean())
    assert logged["test/accuracy"] == pytest.approx(torch.stack(right).mean().item(), abs=1e-6)
    assert [name for name in logged if "_step" in name] == ["test/accuracy_step0"]
    assert maml.result_facts() == {}


def test_tasks_are_solved_without_a_trainer_as_with_one() -> None:
    """By the layer for three classes; training goes on with that for seven."""
    maml, (episode, _) = learner(inner_lr=0.3), Data().val_dataloader()
    expected = fine_tuned_accuracy(maml.model, episode, 0.3, 0.0, 3)
    torch.testing.assert_close(maml.evaluate(episode).metric.mean(dim=1), expected)
    logits = maml.outputs(episode)
    assert logits.shape == (4, 4, 6, WAYS)
    theta = maml.adapt(episode.support_x[0], episode.support_y[0])
    adapted = maml.fast_adapt(episode.support_x[0], episode.support_y[0])
    found = adapted(episode.query_x[0])
    torch.testing.assert_close(found, logits[-1, 0])
    assert theta["head.weight"].shape == (WAYS, 6)
    maml.meta_loss(tasks(1, CLASSES, 0)).backward()  # seven classes
    with torch.no_grad():
        maml.model.body.weight.zero_()
    assert not torch.equal(maml.outputs(episode), logits)  # of the weights as they are now


@pytest.mark.parametrize("classes", [2, WAYS, 5])
def test_neighbours_of_new_images_are_those_of_any_number_of_classes(classes) -> None:
    maml = learner(classify_by="nearest_neighbour")
    sx, sy, qx, _ = (part[0] for part in tasks(1, classes, 1))
    adapted = maml.fast_adapt(sx, [f"class {number}" for number in sy.tolist()])
    support, query = (torch.tanh(maml.model.body(x)) for x in (sx, qx))
    nearest = F.cosine_similarity(query[:, None], support[None], dim=2).argmax(dim=1)
    assert adapted.predict(qx) == [f"class {number}" for number in sy[nearest].tolist()]
    with pytest.raises(ValueError, match="`adapt` is for `classify_by` 'fine_tuning', got"):
        maml.adapt(sx, sy)


def test_neighbours_do_not_depend_on_what_else_is_asked_unless_told_to() -> None:
    maml = learner(classify_by="nearest_neighbour")
    maml.model.body = nn.Sequential(nn.Linear(FEATURES, 6), EpisodeBatchNorm(6))
    sx, sy, qx, _ = (part[0] for part in tasks(1, WAYS, 1))
    fixed, moving = (
        maml.fast_adapt(sx, sy, statistics=kind)  # type: ignore[arg-type]
        for kind in ("support", "transductive")
    )
    torch.testing.assert_close(fixed(qx[:2]), fixed(qx)[:2])
    assert (moving(qx[:2]) - moving(qx)[:2]).abs().max() > 0.01


def test_training_on_tasks_is_refused() -> None:
    """Their class numbers mean something else in each."""

    class Tasks(Data):
        shots, class_batch_size = Shots(WAYS, 2, 2), None

    message = "`class_batch_size` of Tasks must be given: training takes batches of all"
    with pytest.raises(ValueError, match=message):
        trainer(max_epochs=1).fit(learner(), Tasks())
    Tasks.class_batch_size = 28
    trainer(max_epochs=1).fit(learner(), Tasks())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "tail"}, r"`head` must be one of the linear layers .*'head'\], got 'tail'"),
        ({"n_way": 1}, "`n_way` must be at least 2, got 1"),
        ({"classify_by": "luck"}, "`classify_by` must be one of .*, got 'luck'"),
        ({"fine_tuning_decays": [-1.0]}, "`fine_tuning_decays` must be finite numbers >= 0"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        learner(**settings)
