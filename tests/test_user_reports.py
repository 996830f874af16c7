"""docs/user_reports.md: each report has tests, which name it in their docstrings."""

import ast
import re
import time
from functools import cache
from pathlib import Path

import pytest
import torch

from datamodules import Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.models import MLP

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "user_reports.md").read_text(encoding="utf-8")
REPORTS = [f"A{number:02}" for number in range(1, 42)]
ROWS = [
    (id_, re.findall(r"`([\w/]+\.py::\w+)`", tests))
    for id_, tests in re.findall(r"^\| (A\d\d) \|.*\|(.*)\|$", PAGE, re.MULTILINE)
]


def reports_of(source: str) -> dict[str, set[str]]:
    """The ids in the docstring of each test in `source`."""
    tests = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
    return {
        test.name: set(re.findall(r"\bA\d\d\b", ast.get_docstring(test) or ""))
        for test in tests
        if test.name.startswith("test_")
    }


@cache
def reports_in(file: str) -> dict[str, set[str]]:
    return reports_of((ROOT / file).read_text(encoding="utf-8"))


def test_the_page_has_a_row_for_each_report() -> None:
    assert [id_ for id_, _ in ROWS] == REPORTS


@pytest.mark.parametrize(("report", "tests"), ROWS, ids=[id_ for id_, _ in ROWS])
def test_every_report_has_a_test(report, tests) -> None:
    assert tests
    for test in tests:
        file, _, name = test.partition("::")
        assert report in reports_in(file)[name], test


def test_the_search_sees_docstrings_of_tests_only() -> None:
    source = 'def test_x():\n    """A98: yes."""\n    """A97"""\n\ndef f():\n    """A99: no."""\n'
    assert reports_of(source) == {"test_x": {"A98"}}


def test_a_batch_of_tasks_is_the_loop_over_them_and_faster() -> None:
    """A40: relative 1e-5; sinusoids, 25 tasks: at least 3 times the rate (median of 20 turns)."""
    episode = next(iter(Sinusoid(meta_batch_size=25).train_dataloader()))
    torch.manual_seed(0)
    model = MLP()
    together, loop = (MetaLearner(model, loss="mse", tasks_at_once=number) for number in (None, 1))
    seconds: dict[str, list[float]] = {"together": [], "loop": []}
    for _ in range(20):
        for name, maml in (("together", together), ("loop", loop)):
            maml.zero_grad()
            start = time.perf_counter()
            maml.meta_loss(episode).backward()
            seconds[name].append(time.perf_counter() - start)
    for one, other in zip(together.parameters(), loop.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)
    medians = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    assert medians["loop"] > 3 * medians["together"]
