"""benchmarks/learns.py: what counts as learned, and that a query label which is seen is noticed."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import learns
from datamodules import Glyphs
from learns import CHANCE, N_WAY, Course, Lesson, ShuffledLabels
from lightning_maml.baselines import EpisodicLearner, PrototypicalNets
from lightning_maml.episode import Episode
from lightning_maml.models import ConvEmbedding


@pytest.fixture
def few_tasks(monkeypatch) -> None:
    """Ten test tasks, of few characters."""

    def generated(course: Course, seed: int) -> Glyphs:
        return Glyphs(
            N_WAY, 1, course.query_shot, eval_query_shot=2, meta_batch_size=course.tasks,
            train_batches_per_epoch=course.updates, test_tasks=10, characters=(100, 5, 20),
            drawings=8, seed=seed,
        )  # fmt: skip

    monkeypatch.setattr(learns, "generated", generated)


def small_nets() -> nn.Module:
    return PrototypicalNets(ConvEmbedding(channels=16))


class Guess(nn.Module):
    """Says the same of everything."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(N_WAY))

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        return self.scores.log_softmax(dim=0).expand(*query_x.shape[:2], N_WAY)

    def training_loss(self, episode: Episode) -> Tensor:
        return -self(*episode[:3]).mean()


class Peeking(EpisodicLearner):
    """Solves no task: it answers what it should have been asked for."""

    def outputs(self, episode: Episode, inner_steps: int | None = None) -> Tensor:
        answers = F.one_hot(episode.query_y, N_WAY).float()
        return (answers + 1e-3).log()[None]


def test_every_shift_gives_each_query_another_label(few_tasks) -> None:
    data = learns.generated(Course(small_nets, 1), 0)
    batches = [next(iter(data.test_dataloader())) for _ in range(N_WAY)]
    labels = torch.stack(
        [
            ShuffledLabels(data, 3, shift).on_after_batch_transfer(batch, 0).query_y
            for shift, batch in enumerate(batches)
        ]
    )
    assert (labels.sort(dim=0).values == torch.arange(N_WAY)[:, None, None]).all()
    truly = batches[0].query_y
    assert (labels[0] == truly).float().mean().item() == pytest.approx(CHANCE, abs=0.1)


def test_who_sees_a_query_label_is_noticed(few_tasks, monkeypatch) -> None:
    course = Course(small_nets, 1)
    honest, _ = learns.lesson(course, learns.generated(course, 0), 0)
    assert honest.shifted == pytest.approx(CHANCE, abs=1e-7)  # accuracies in float32
    monkeypatch.setattr(learns, "EpisodicLearner", Peeking)
    peeking, _ = learns.lesson(course, learns.generated(course, 0), 0)
    assert (peeking.learned[0], peeking.shifted) == (1, 1)
    assert not peeking.passed


@pytest.mark.parametrize("name", learns.COURSES)
def test_every_method_takes_true_and_shuffled_labels(name, few_tasks) -> None:
    course = replace(learns.COURSES[name], updates=1, tasks=1)
    found, _ = learns.lesson(course, learns.generated(course, 0), 0)
    assert found.shifted == pytest.approx(CHANCE, abs=1e-7)


@pytest.mark.parametrize(
    ("learned", "shifted", "passed"),
    [
        ((0.45, 0.04), 0.2, True),
        ((0.43, 0.04), 0.2, False),  # may be below 40%
        ((0.45, 0.04), 0.2001, False),
        ((0.45, 0.04), 0.1999, False),
    ],
)
def test_learned_is_what_is_surely_above_chance_and_twenty_points(learned, shifted, passed) -> None:
    assert Lesson(learned, (0.2, 0.03), shifted).passed is passed


def test_table_is_kept_and_what_failed_is_named(few_tasks, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    courses = {"nets": Course(small_nets, 60, meta_lr=0.01), "guess": Course(Guess, 1, 1)}
    monkeypatch.setattr(learns, "COURSES", courses)
    monkeypatch.setattr(sys, "argv", ["learns.py", "--out", "results"])
    with pytest.raises(SystemExit, match=r"^not learned: guess$"):
        learns.main()
    (kept,) = Path().glob("*/*")  # and nothing beside it
    assert kept.read_text() in capsys.readouterr().out
    rows = [line.split(" | ") for line in kept.read_text().splitlines() if line[0:1] == "|"][2:]
    assert [(row[0], row[1], row[3], row[5]) for row in rows] == [
        ("| nets", "60 of 2", "yes", "20.0000 |"),
        ("| guess", "1 of 1", "NO", "20.0000 |"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["MAML"], "METHOD must be among"),
        (["MAML"], "got 'MAML'"),
        (["MANN", "--out", "results"], "--out keeps the table of all methods"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["learns.py", *arguments])
    with pytest.raises(SystemExit):
        learns.main()
    assert said in capsys.readouterr().err


def test_commands_of_the_docstring_name_methods() -> None:
    """In quotes or not; the first names none, and takes all."""
    first, second = (line for line in learns.__doc__.splitlines() if line.startswith("    "))
    assert first.endswith("learns.py --out benchmarks/results")
    names = shlex.split(second.partition("learns.py")[2].partition("--")[0])
    assert names
    assert set(names) <= set(learns.COURSES)
