"""What users of other implementations suffered: each report has a test, named in its docstring."""

import ast
import re
import time
from pathlib import Path

import pytest
import torch

from datamodules import Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.models import MLP

TESTS = Path(__file__).parent
# Gradients, layers and memory, episodes and data, training runs and reporting.
REPORTS = [f"A{number:02}" for number in range(1, 42)]


def reports_in(source: str) -> set[str]:
    """Ids in the docstrings of the tests in `source`."""
    tests = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)]
    named = [ast.get_docstring(test) or "" for test in tests if test.name.startswith("test_")]
    return set(re.findall(r"\bA\d\d\b", " ".join(named)))


FOUND = {name for path in TESTS.rglob("test_*.py") for name in reports_in(path.read_text("utf-8"))}


@pytest.mark.parametrize("report", REPORTS)
def test_every_report_has_a_test(report) -> None:
    assert report in FOUND


def test_the_search_sees_docstrings_of_tests_only() -> None:
    source = 'def test_x():\n    """A98: yes."""\n    """A97"""\n\ndef f():\n    """A99: no."""\n'
    assert reports_in(source) == {"A98"}


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
