"""The evaluation curve: loss and metric after 0, 1, ... inner steps, over all tasks."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_maml.confidence import mean_and_ci95


class EvalResult(NamedTuple):
    """Query loss and metric of each task after 0, 1, ... inner steps.

    Shapes: both ``[inner_steps + 1, tasks]``.
    """

    loss: Tensor
    metric: Tensor


class CurveSummary(NamedTuple):
    """A metric over tasks, after each number of inner steps.

    A task has diverged where its loss or metric is not finite. `mean` and `ci95` are over all
    tasks, so they are not finite where one has diverged; `finite_mean` and `finite_ci95` leave
    those out, and `diverged` says how many. In the median a metric that is not finite counts as
    worse than any other.

    Shapes: ``[inner_steps + 1]`` each.
    """

    mean: Tensor
    ci95: Tensor
    median: Tensor
    finite_mean: Tensor
    finite_ci95: Tensor
    diverged: Tensor


def summarize(result: EvalResult, worst: float = torch.inf) -> CurveSummary:
    """Mean, 95% CI, median and number of diverged tasks after each number of inner steps.

    `worst` is what a metric that is not finite counts as in the median: minus infinity where more
    is better.
    """
    metric = result.metric.double()
    finite = torch.isfinite(metric) & torch.isfinite(result.loss)
    mean, ci95 = mean_and_ci95(metric)
    rows = [mean_and_ci95(m[ok]) for m, ok in zip(metric, finite, strict=True)]
    return CurveSummary(
        mean=mean,
        ci95=ci95,
        median=_median(metric.where(torch.isfinite(metric), worst)),
        finite_mean=torch.stack([row[0] for row in rows]),
        finite_ci95=torch.stack([row[1] for row in rows]),
        diverged=(~finite).sum(dim=-1),
    )


def curve_values(summary: CurveSummary, stage: str, metric: str) -> dict[str, Tensor]:
    """What is logged of a curve beside the mean after the last inner step, by name."""
    name = f"{stage}/{metric}"
    values = {f"{name}_step{k}": mean for k, mean in enumerate(summary.mean)}
    values[f"{name}_ci95"] = summary.ci95[-1]
    values[f"{stage}/diverged"] = summary.diverged[-1].float()
    return values


def _median(values: Tensor) -> Tensor:
    # torch.quantile interpolates, and inf - inf is NaN; torch.median takes the lower of two.
    ordered, count = values.sort(dim=-1).values, values.shape[-1]
    return (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2


class TaskCurve(Metric):
    """Collects evaluation results over batches and processes, one entry per task.

    Every task weighs the same, however uneven the batches are.
    """

    full_state_update = False
    loss: list[Tensor] | Tensor
    metric: list[Tensor] | Tensor
    digests: list[Tensor] | Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("loss", "metric", "digests"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, result: EvalResult, digests: Tensor) -> None:
        """Add a batch; `digests` ``[tasks]`` identify its tasks, see fingerprint.py."""
        # Tasks first: that is the axis along which processes are joined.
        for state, values in zip(self._states(), (*result, digests), strict=True):
            assert isinstance(state, list)
            state.append(values.T if values.ndim > 1 else values)

    def collected(self) -> tuple[EvalResult, Tensor]:
        """All tasks so far, of all processes: their results, and their digests ``[tasks]``."""
        result, digests = self.compute()
        digests = digests.reshape(-1)  # torchmetrics squeezes what has a single element
        return EvalResult(*(part.reshape(-1, len(digests)) for part in result)), digests

    def compute(self) -> tuple[EvalResult, Tensor]:
        """What `collected` makes regular."""
        loss, metric, digests = (
            torch.cat(state) if isinstance(state, list) else state for state in self._states()
        )
        return EvalResult(loss.T, metric.T), digests

    def _states(self) -> tuple[list[Tensor] | Tensor, ...]:
        return self.loss, self.metric, self.digests
