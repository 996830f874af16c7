"""docs/watching_a_run.md names what a run logs, no more and no less."""

import csv
import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "watching_a_run.md").read_text(encoding="utf-8")
FIGURES = {"val/curve", "val/tasks"}  # for W&B and TensorBoard


def test_the_page_names_what_is_logged(trained) -> None:
    table = PAGE.partition("## What is logged")[2].partition("Policies log")[0]
    named = set(re.findall(r"`((?:train|val)/[^`]+)`", table.replace("<metric>", "mse")))
    steps = {f"val/mse_step{k}" for k in range(3)}
    text = (trained.parent / "metrics.csv").read_text(encoding="utf-8")
    columns = set(next(csv.reader(text.splitlines()))) - {"step", "epoch"}
    assert named - FIGURES - {"val/mse_step0"} == columns - steps
    assert steps <= columns


def test_the_dashboard_shows_what_is_logged() -> None:
    logged, _, dashboard = PAGE.partition("## A dashboard")
    for key in re.findall(r"`((?:train|val)/[^`]+)`", dashboard.replace("val/mse", "val/<metric>")):
        assert f"`{key}`" in logged, key
