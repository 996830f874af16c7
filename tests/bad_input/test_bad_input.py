"""Wrong input ends in one line that names it, before the first meta-update.

The rows are in rows.yaml and files.py; docs/reliability.md shows them.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import datamodules
from datamodules import MiniImagenet, Omniglot, RLTasks
from datamodules.sampling import uniforms
from lightning_maml import Episode, MetaLearner, baselines, inner_rules, maml_loss, models
from lightning_maml.inner_rules import Momentum
from lightning_maml.models import ContextVector
from lightning_maml.rl import GaussianMLP, MetaPolicy
from lightning_maml.rl.envs.point import Point
from tests.bad_input import ROWS, Row, files
from tests.bad_input.__main__ import DOC, table

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


class Two(nn.Module):
    """A network with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), x


class WithWeight(nn.Module):
    """A loss that would have to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return self.weight * (output - target).square().mean()


def net(outputs: int = 1) -> nn.Module:
    return nn.Linear(1, outputs)


def learner() -> MetaLearner:
    return MetaLearner(net(), loss="mse")


def classifier() -> MetaLearner:
    return MetaLearner(net(2), loss="cross_entropy")


def policy(observations: int = 2) -> GaussianMLP:
    return GaussianMLP(observations, 2, (4,))


def episode(tasks: int = 2, **parts: Tensor) -> Episode:
    """Of three support and four query examples, with some parts replaced."""
    x, y = torch.zeros(tasks, 3, 1), torch.zeros(tasks, 4, 1)
    return Episode(x, x, y, y)._replace(**parts)


def classes(dtype: torch.dtype, label: int = 0) -> Episode:
    support, query = (torch.full((2, n), label, dtype=dtype) for n in (3, 4))
    return episode(support_y=support, query_y=query)


NAMES: dict[str, Any] = {"torch": torch, "nn": nn, "datamodules": datamodules}
NAMES |= {"baselines": baselines, "inner_rules": inner_rules, "models": models}
NAMES |= {
    known.__name__: known
    for known in (
        ContextVector, Episode, GaussianMLP, MetaLearner, MetaPolicy, MiniImagenet, Momentum,
        Omniglot, Point, RLTasks, Two, WithWeight, classes, classifier, episode, learner,
        maml_loss, net, policy, uniforms,
    )
}  # fmt: skip


def check_message(message: str, row: Row) -> None:
    pattern = ".*".join(re.escape(part) for part in row.said.split("..."))
    assert re.search(pattern, message.replace("\\", "/")), message
    assert "\n" not in message


def check_command(refused: Any, row: Row, arguments: list[str]) -> None:
    end = refused(*arguments)
    assert end.code == 2
    assert end.message.startswith("error: ")
    check_message(end.message, row)
    assert not list(Path().rglob("last*.ckpt"))  # not one meta-update was done


def check_expression(row: Row) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        eval(row.given, NAMES)
    check_message(str(refusal.value), row)


# A command takes half a second: an eighth of the flags by default, the rest with `-m slow`.
SOME_FLAGS = [
    pytest.param(row, id=row.id, marks=[pytest.mark.slow] if number % 8 else [])
    for number, row in enumerate(ROWS["flags"])
]


@pytest.mark.parametrize("row", SOME_FLAGS)
def test_wrong_flag(config, refused, row) -> None:
    check_command(refused, row, ["fit", f"--config={config}", *shlex.split(row.given)])


@pytest.mark.parametrize("row", ROWS["commands"], ids=lambda row: row.id)
def test_wrong_command(config, refused, row) -> None:
    command = row.given.format(config=config.as_posix(), configs=CONFIGS.as_posix())
    check_command(refused, row, shlex.split(command))


@pytest.mark.parametrize("row", ROWS["expressions"], ids=lambda row: row.id)
def test_wrong_value(row) -> None:
    check_expression(row)


@pytest.mark.parametrize("row", ROWS["files"], ids=lambda row: row.id)
def test_wrong_file(write_classes, refused, row) -> None:
    getattr(files, row.id)(write_classes)
    if row.given.startswith(("fit ", "test ")):
        check_command(refused, row, shlex.split(row.given))
    else:
        check_expression(row)


def test_ids_are_unique_and_there_are_enough() -> None:
    every = [row for rows in ROWS.values() for row in rows]
    names = [row.id for kind in ("flags", "commands", "expressions") for row in ROWS[kind]]
    assert len(set(names)) == len(names)
    assert len(every) >= 100


def test_the_page_shows_the_rows() -> None:
    """If not: `python -m tests.bad_input` writes them."""
    assert table() in DOC.read_text(encoding="utf-8")
