"""Losses and their reductions, by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_maml.losses import (
    LOSSES,
    accuracy,
    as_import_path,
    by_name,
    cross_entropy,
    cross_entropy_n_way,
    metric_for,
    mse,
    worst_of,
)


def test_reductions() -> None:
    """N * K = 6 examples, N = 3, K = 2: the sum divided by K is 3 times the mean."""
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    each = [-math.log(torch.softmax(row, 0)[y]) for row, y in zip(logits, labels, strict=True)]
    assert cross_entropy(logits, labels).item() == pytest.approx(sum(each) / 6, rel=1e-5)
    assert cross_entropy_n_way(logits, labels).item() == pytest.approx(sum(each) / 2, rel=1e-5)
    assert mse(torch.tensor([1.0, 4.0]), torch.tensor([0.0, 2.0])).item() == 2.5


def test_a_prediction_that_is_not_finite_is_wrong() -> None:
    logits = torch.tensor([[2.0, 1.0], [float("nan"), 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert accuracy(logits, torch.tensor([0, 0, 1, 0])).item() == 0.5


@pytest.mark.parametrize("loss", [F.mse_loss, F.cross_entropy, mse, cross_entropy_n_way])
def test_an_import_path_leads_back(loss: object) -> None:
    path = as_import_path(loss)
    assert isinstance(path, str)
    assert by_name(path, LOSSES, "loss") is loss


def test_a_lambda_has_no_import_path() -> None:
    loss = lambda output, target: (output - target).abs().mean()  # noqa: E731
    assert as_import_path(loss) is loss
    assert as_import_path("mse") == "mse"
    assert as_import_path(None) is None


@pytest.mark.parametrize(
    ("loss", "metric", "name"),
    [
        (F.cross_entropy, None, "accuracy"),
        (nn.CrossEntropyLoss(), None, "accuracy"),
        (F.mse_loss, None, "loss"),
        (mse, "mse", "mse"),
        (F.l1_loss, "torch.nn.functional.mse_loss", "mse_loss"),
    ],
)
def test_metric_and_its_name(loss: object, metric: str | None, name: str) -> None:
    assert metric_for(loss, metric)[0] == name


def own(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return output.mean()


def better(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return output.mean()


better.higher_is_better = True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("metric", "worst"),
    [(accuracy, -math.inf), (mse, math.inf), (F.l1_loss, math.inf), (better, -math.inf)],
)
def test_the_worst_value_of_a_metric(metric, worst: float) -> None:
    assert worst_of(metric, cross_entropy) == worst
    assert worst_of(own, own) == math.inf
