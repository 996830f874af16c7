"""Methods without an inner loop answer for new images: as `outputs` does, for each image alone."""

from typing import Any

import pytest
import torch
from torch import nn

from lightning_maml.baselines import EpisodicLearner, MetaLSTM
from lightning_maml.episode import Episode
from tests.baselines.small_methods import N_WAY, PLAIN, STATEFUL, small_learner, small_tasks

NAMES = ["oak", "elm", "ash"]  # of the classes 0, 1, 2; sorted, these are 2, 1, 0


def task() -> Episode:
    """One of the test tasks, images as floats."""
    batch = next(iter(small_tasks().test_dataloader()))
    images = (batch.support_x / 255, batch.query_x / 255)
    return Episode(images[0][:1], batch.support_y[:1], images[1][:1], batch.query_y[:1])


def labels_of(episode: Episode) -> list[str]:
    return [NAMES[number] for number in episode.support_y[0].tolist()]


@pytest.mark.parametrize("name", [*PLAIN, *STATEFUL])
def test_it_says_what_the_learner_does(name, tmp_path) -> None:
    learner, episode = small_learner(name), task()
    # Sorted by name the classes have other numbers, and a memory is written in another way.
    renamed = episode._replace(support_y=2 - episode.support_y, query_y=2 - episode.query_y)
    expected = learner.outputs(renamed)[0, 0].exp()
    before = {key: value.clone() for key, value in learner.state_dict().items()}
    adapted = learner.fast_adapt(episode.support_x[0], labels_of(episode))
    new = episode.query_x[0]
    torch.testing.assert_close(adapted.probabilities(new), expected)
    torch.testing.assert_close(adapted.probabilities(new[2:3]), expected[2:3])  # alone
    assert adapted.class_names == ("ash", "elm", "oak")
    assert adapted.predict(new) == [adapted.class_names[k] for k in expected.argmax(dim=1)]
    torch.save(adapted, tmp_path / "solved.pt")
    again = torch.load(tmp_path / "solved.pt", weights_only=False)
    assert torch.equal(again.probabilities(new), adapted.probabilities(new))
    for key, value in learner.state_dict().items():
        assert torch.equal(value, before[key]), key
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()
    torch.testing.assert_close(adapted.probabilities(new), expected)  # it is a copy


def with_batch_norm() -> EpisodicLearner:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Linear(784, N_WAY))
    return EpisodicLearner(MetaLSTM(network, 2, hidden=3))


def test_answers_that_depend_on_the_batch_must_be_asked_for() -> None:
    learner, episode = with_batch_norm(), task()
    with pytest.raises(ValueError, match="`statistics` must be 'transductive' for MetaLSTM with"):
        learner.fast_adapt(episode.support_x[0], episode.support_y[0])
    adapted = learner.fast_adapt(
        episode.support_x[0], episode.support_y[0], statistics="transductive"
    )
    expected = learner.outputs(episode)[0, 0].exp()
    torch.testing.assert_close(adapted.probabilities(episode.query_x[0]), expected)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("prototypical", {"labels": [0.5] * 6}, "`labels` must be class names or integers, got"),
        ("prototypical", {"labels": [0, 1, 2]}, "must hold the same number of .* 6 and 3"),
        ("prototypical", {"statistics": "mine"}, "`statistics` must be one of .*, got 'mine'"),
        ("prototypical", {"inner_steps": 2}, "`inner_steps` must be 0 for this method, got 2"),
        ("MANN", {"labels": [0, 0, 0, 1, 1, 1]}, "`labels` must have 3 classes, .* got 2: 0, 1.$"),
        ("MANN", {"labels": [0, 1, 2, 3, 0, 1]}, "`n_way` must be at least 4"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(name, changes: dict[str, Any], message) -> None:
    settings = {"images": task().support_x[0], "labels": task().support_y[0]} | changes
    with pytest.raises(ValueError, match=message):
        small_learner(name).fast_adapt(**settings)
