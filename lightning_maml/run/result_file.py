"""What `test` leaves behind: a table in the terminal and a result file in the run's folder.

`validate` leaves the table.
"""

import csv
import json
from pathlib import Path
from typing import IO, Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_maml.episode import Episode, TaskBatch
from lightning_maml.fingerprint import fingerprint
from lightning_maml.run.files import unused_stem, write_whole
from lightning_maml.run.fits import FirstTasks, fits
from lightning_maml.run.folder import run_folder
from lightning_maml.run.provenance import plain, provenance
from lightning_maml.task_curve import CurveSummary, EvalResult, TaskCurve, summarize

STEM, JSON, TASKS, FITS = "test_result", ".json", "_tasks.csv", "_fits.json"


class Evaluated(Protocol):
    """What a learner must have for its test to be written down."""

    curve: TaskCurve
    metric_name: str
    worst_metric: float  # what counts for one that is not finite: infinity or minus infinity


class ResultFile(Callback):
    """After `test`, prints a table and writes ``test_result.json`` and ``test_result_tasks.csv``.

    They go to the run's folder (``trainer.log_dir``); where there are some already, to
    ``test_result_2.json`` and so on. The JSON file holds the metric after each number of inner
    steps (mean, 95% CI, median, number of diverged tasks; what is not finite is null), the
    fingerprint of the tasks, the number of trained parameters, and where the result comes from
    (provenance.py). The CSV file holds loss and metric of each task. The fits of the first tasks go
    to ``test_result_fits.json``, which the result names under "fits" (else null): of regressions of
    one number on one number (fits.py), and trajectories in the plane where the learner has them
    (its `tracks`). With ``Trainer(fast_dev_run=...)`` only the table.

    Attributes:
        path: the result file of the last test, None before.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._first = FirstTasks()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Episode | TaskBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember the first tasks, which are those of the first process."""
        if trainer.is_global_zero and isinstance(batch, Episode | TaskBatch):
            self._first.add(batch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather on all processes, write on the first."""
        learner = cast(Evaluated, pl_module)
        result, digests = learner.curve.collected()
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        first = self._first.take()
        summary = summarize(result, learner.worst_metric)
        facts = {
            "metric": learner.metric_name,
            "tasks": len(digests),
            "fingerprint": fingerprint(digests),
            "parameters": sum(p.numel() for p in pl_module.parameters() if p.requires_grad),
        }
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            facts |= curve_facts(summary) | own_facts(learner) | provenance(trainer, pl_module)
            drawn = None if first is None else fits_of(pl_module, first)
            self.path = write_result(folder, facts, result, digests, drawn)
        print(table(facts, summary, self.path), flush=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table, if this is not one validation of many."""
        if trainer.state.fn != "validate":
            return
        learner = cast(Evaluated, pl_module)
        result, digests = learner.curve.collected()
        if trainer.is_global_zero:
            facts = {"metric": learner.metric_name, "tasks": len(digests)}
            print(table(facts, summarize(result, learner.worst_metric), None, "val"), flush=True)


def own_facts(learner: object) -> dict[str, Any]:
    """What a learner has to say of its own: its `result_facts()`, where it has such a method."""
    facts = getattr(learner, "result_facts", None)
    return dict(facts()) if callable(facts) else {}


def curve_facts(summary: CurveSummary) -> dict[str, Any]:
    """The summary as lists, one entry per number of inner steps from 0."""
    lists = {name: values.tolist() for name, values in summary._asdict().items()}
    return {"steps": list(range(len(summary.mean))), **lists}


def fits_of(learner: Any, first: Episode | TaskBatch) -> dict[str, Any] | None:
    """The fits of the first tasks; None for a learner that cannot give its outputs."""
    if isinstance(first, TaskBatch):
        return getattr(learner, "tracks", lambda tasks: None)(first)
    outputs = getattr(learner, "outputs", None)
    return None if outputs is None else fits(first, outputs(first).detach())


def write_result(
    folder: Path,
    facts: dict[str, Any],
    result: EvalResult,
    digests: Tensor,
    drawn: dict[str, Any] | None = None,
) -> Path:
    """Write the files under a name that is not taken; returns the path of the result.

    `drawn`, where given, are the fits of the first tasks.
    """
    stem = unused_stem(folder, STEM, [JSON, TASKS, FITS])
    beside = {"per_task": f"{stem}{TASKS}", "fits": f"{stem}{FITS}" if drawn else None}
    content = plain({**facts, **beside})
    if drawn:
        fitted = plain({"fingerprint": facts.get("fingerprint"), **drawn})
        write_whole(folder / f"{stem}{FITS}", lambda file: json.dump(fitted, file, allow_nan=False))
    write_whole(folder / f"{stem}{TASKS}", lambda file: _write_tasks(file, result, digests))
    path = folder / f"{stem}{JSON}"
    write_whole(path, lambda file: json.dump(content, file, indent=2, allow_nan=False))
    return path


def table(
    facts: dict[str, Any], summary: CurveSummary, path: Path | None, split: str = "test"
) -> str:
    """The result as text of at most 80 columns (a long path aside)."""
    diverged = bool(summary.diverged.any())
    extra = f"{'finite mean':>14}{'95% CI':>12}" if diverged else ""
    lines = [
        f"{facts['metric']} over {facts['tasks']} {split} tasks, after each number of inner steps",
        f"{'steps':>5}{'mean':>14}{'95% CI':>12}{'median':>12}{'diverged':>10}{extra}",
    ]
    columns = (values.tolist() for values in summary)
    for step, (mean, ci95, median, some_mean, some_ci95, count) in enumerate(zip(*columns)):  # noqa: B905
        row = f"{step:>5}{_short(mean):>14}{_short(ci95, '+- '):>12}{_short(median):>12}{count:>10}"
        extra = f"{_short(some_mean):>14}{_short(some_ci95, '+- '):>12}" if diverged else ""
        lines.append(row + extra)
    if "fingerprint" in facts:
        lines.append(f"fingerprint of the tasks: {facts['fingerprint']}")
    if path is not None:
        lines.append(f"result file: {path}")
    return "\n".join(lines)


def _short(value: float, sign: str = "") -> str:
    return f"{sign}{value:.4f}" if abs(value) < 1e3 else f"{sign}{value:.3g}"


def _write_tasks(file: IO[str], result: EvalResult, digests: Tensor) -> None:
    """One line per task: its hash, loss and metric after 0, 1, ... inner steps."""
    writer = csv.writer(file, lineterminator="\n")
    steps = range(len(result.loss))
    writer.writerow(["task", *(f"loss_{k}" for k in steps), *(f"metric_{k}" for k in steps)])
    values = torch.cat([result.loss, result.metric]).T.tolist()
    for digest, row in zip(digests.tolist(), values, strict=True):
        writer.writerow([f"{digest % 2**64:016x}", *row])
