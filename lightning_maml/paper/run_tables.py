"""`python -m lightning_maml.paper.run_tables RUN`: what one run's own files hold beyond its result.

A learning curve from ``metrics.csv``, and from ``test_result_tasks.csv`` what adaptation gains each
task: two means over tasks may lie within each other's intervals while every single task gained.
"""

import argparse
import csv
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from lightning_maml.confidence import mean_and_ci95

VALIDATION = re.compile(r"val/(?P<name>\w+)_(?P<column>step\d+|ci95)")
Curve = dict[int, dict[str, float]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables of one run, whose folders are given oldest first; errors are one line."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_maml.paper.run_tables", description="Tables of one run."
    )
    parser.add_argument("run", type=Path, nargs="+", help="e.g. runs/point/version_0")
    parser.add_argument("--every", type=int, default=1, help="show every n-th validation")
    chosen = parser.parse_args(arguments)
    try:
        print("\n\n".join(tables(chosen.run, chosen.every)))
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


def tables(folders: Sequence[Path], every: int = 1) -> list[str]:
    """The Markdown tables that the files in `folders` allow.

    Raises:
        ValueError: naming the argument if nothing is there to read, or `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"--every must be at least 1, got {every}.")
    made = []
    if curve := learning_curve(_rows(folders, "metrics.csv")):
        made.append(_curve_table(curve, every))
    for folder in folders:
        if found := list(_rows([folder], "test_result_tasks.csv")):
            made.append(_gain_table(gains(found)))
    if not made:
        given = ", ".join(str(folder) for folder in folders)
        raise ValueError(
            f"RUN must be a folder with a metrics.csv that holds validations, or a "
            f"test_result_tasks.csv, got {given}."
        )
    return made


def learning_curve(rows: Iterable[dict[str, str]]) -> Curve:
    """Meta-update -> ``step0``, ``step1``, ... and ``ci95``: the validation metric after each
    gradient step, and the half-width of the last one's 95% CI. Of an update validated twice, the
    later row holds.
    """
    curve: Curve = {}
    for row in rows:
        found = [(VALIDATION.fullmatch(key), value) for key, value in row.items() if value]
        columns = {match["column"]: float(value) for match, value in found if match}
        if columns:
            curve[int(float(row["step"]))] = columns
    return dict(sorted(curve.items()))


def gains(rows: Iterable[dict[str, str]]) -> list[tuple[float, float]]:
    """Mean and half-width of the 95% CI, over tasks, of the metric after each step less before.

    Raises:
        ValueError: if the rows are not those of a ``test_result_tasks.csv`` with steps.
    """
    metrics = [
        [float(row[key]) for key in sorted(row, key=_number) if key.startswith("metric_")]
        for row in rows
    ]
    values = torch.tensor(metrics, dtype=torch.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError("test_result_tasks.csv must have the columns metric_0, metric_1, ...")
    mean, half = mean_and_ci95((values[:, 1:] - values[:, :1]).T)
    return list(zip(mean.tolist(), half.tolist(), strict=True))


def _number(key: str) -> int:
    """The number at the end of ``metric_3`` or ``step12``."""
    match = re.fullmatch(r"(?:metric_|step)(\d+)", key)
    return int(match[1]) if match else sys.maxsize


def _rows(folders: Sequence[Path], name: str) -> Iterable[dict[str, str]]:
    for folder in folders:
        if (path := folder / name).is_file():
            with path.open(newline="") as file:
                yield from csv.DictReader(file)


def _curve_table(curve: Curve, every: int) -> str:
    columns = sorted({name for row in curve.values() for name in row}, key=_number)
    shown = list(curve.items())[every - 1 :: every]
    digits = _digits(value for row in curve.values() for value in row.values())
    rows = [[str(update), *(f"{row[c]:.{digits}f}" for c in columns)] for update, row in shown]
    return _markdown(["updates", *columns], rows)


def _gain_table(found: list[tuple[float, float]]) -> str:
    digits = _digits(value for pair in found for value in pair)
    rows = [
        [str(step), f"{mean:.{digits}f} +- {half:.{digits}f}"]
        for step, (mean, half) in enumerate(found, 1)
    ]
    return _markdown(["steps", "gain by task"], rows)


def _digits(values: Iterable[float]) -> int:
    """Of returns one digit is read, of accuracies and errors four."""
    return 1 if max(map(abs, values)) >= 10 else 4


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
