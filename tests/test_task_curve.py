"""Summaries over tasks, and the fingerprint of the tasks."""

import pytest
import torch

from lightning_maml import Episode, EvalResult
from lightning_maml.confidence import mean_and_ci95
from lightning_maml.fingerprint import fingerprint, task_digests
from lightning_maml.task_curve import TaskCurve, summarize


def test_confidence_interval_of_known_values() -> None:
    """A32: 0.4, 0.6, 0.5, 0.7: mean 0.55, half-width 0.1265 with the sample deviation."""
    mean, ci95 = mean_and_ci95(torch.tensor([0.4, 0.6, 0.5, 0.7], dtype=torch.float64))
    assert mean.item() == pytest.approx(0.55)
    # the deviations are -.15, .05, -.05, .15: their squares sum to 0.05
    assert ci95.item() == pytest.approx(1.96 * (0.05 / 3) ** 0.5 / 2)


def test_one_task_has_no_confidence_interval() -> None:
    """A32: undefined, not 0."""
    assert mean_and_ci95(torch.tensor([0.4]))[1].isnan()


def test_summary_counts_diverged_tasks_and_hides_none() -> None:
    nan, inf = float("nan"), float("inf")
    metric = torch.tensor([[1.0, 2.0, 6.0], [1.0, 2.0, nan], [1.0, inf, nan]])
    summary = summarize(EvalResult(loss=metric, metric=metric))
    assert summary.diverged.tolist() == [0, 1, 2]
    assert summary.median.tolist() == [2.0, 2.0, inf]
    assert summary.mean[0] == 3.0
    assert not summary.mean[1:].isfinite().any()
    assert summary.finite_mean.tolist() == [3.0, 1.5, 1.0]


def test_a_diverged_task_is_the_worst_in_the_median_where_more_is_better() -> None:
    """Returns: of -9, -3, and one that diverged, the middle one is -9; of two that did, none."""
    nan, inf = float("nan"), float("inf")
    metric = torch.tensor([[-9.0, nan, -3.0], [nan, -3.0, inf]])
    summary = summarize(EvalResult(loss=-metric, metric=metric), worst=-inf)
    assert summary.median.tolist() == [-9.0, -inf]


def test_accuracy_of_a_diverged_task_counts_in_the_mean() -> None:
    result = EvalResult(torch.tensor([[0.1, float("nan")]]), torch.tensor([[1.0, 0.0]]))
    summary = summarize(result)
    assert (summary.mean.item(), summary.diverged.item()) == (0.5, 1)


@pytest.mark.parametrize("sizes", [[5], [2, 3], [1, 1, 3], [1]])
def test_every_task_weighs_the_same_however_uneven_the_batches(sizes: list[int]) -> None:
    values = torch.arange(10.0).reshape(2, 5)[:, : sum(sizes)]
    curve, first = TaskCurve(), 0
    for size in sizes:
        part = values[:, first : first + size]
        curve.update(EvalResult(part, 2 * part), torch.arange(first, first + size))
        first += size
    result, digests = curve.collected()
    assert torch.equal(result.loss, values)
    assert torch.equal(result.metric, 2 * values)
    assert digests.tolist() == list(range(sum(sizes)))
    curve.reset()
    assert not curve.loss


def episode(tasks: int) -> Episode:
    g = torch.Generator().manual_seed(0)
    return Episode(*(torch.rand((tasks, 3, 2), generator=g) for _ in range(4)))


def test_fingerprint_names_the_tasks_whatever_their_batches_and_order() -> None:
    whole = task_digests(episode(6))
    parts = [task_digests(Episode(*(t[s] for t in episode(6)))) for s in (slice(3, 6), slice(0, 3))]
    assert len(set(whole.tolist())) == 6
    assert fingerprint(whole) == fingerprint(torch.cat(parts))
    other = episode(6)
    other.query_y[2, 1, 0] += 1e-6
    assert fingerprint(task_digests(other)) != fingerprint(whole)
    assert fingerprint(whole[:5]) != fingerprint(whole)
