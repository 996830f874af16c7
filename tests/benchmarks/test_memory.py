"""The table and the figure of peak memory; the measure itself is tested beside."""

import sys

import pytest
import torch

import memory
from peers.peak_memory import Case


def main(monkeypatch, *options: str) -> None:
    monkeypatch.setattr(sys, "argv", ["memory.py", *options])
    memory.main()


def test_a_row_for_each_contestant_and_a_table_for_each_number_of_tasks(
    monkeypatch, capsys, tmp_path
) -> None:
    def made_up(case):
        if case.contestant == "higher":
            raise OSError("exit status 1: too old")
        growth = case.inner_steps if "unrolled" in case.contestant else 1
        return 10**8 * growth * case.tasks

    monkeypatch.setattr(Case, "peak_bytes", made_up)
    names = ["ours-sweep-1", "ours-unrolled-1", "ours-first-order-1", "higher"]
    steps = ["--steps", "1", "50", "--tasks", "1", "4"]
    figure = tmp_path / "figure.svg"
    main(monkeypatch, "--contestant", *names, *steps, "--plot", str(figure))
    one, four = capsys.readouterr().out.split("\n## 4 tasks\n")
    assert "## 1 task\n" in one
    assert "mini_1shot, peak in MB" in one
    assert f"torch {torch.__version__.partition('+')[0]}" in one
    assert "| contestant | 1 step | 50 steps | last / first |" in one
    assert "| ours-unrolled-1 | 100 | 5000 | 50.00 |" in one
    assert "| ours-unrolled-1 | 400 | 20000 | 50.00 |" in four
    assert "| ours-first-order-1 | 400 | 400 | 1.00 |" in four
    assert "Not measured: higher: exit status 1: too old." in four
    assert all(name in figure.read_text() for name in ("1 task", "4 tasks", "ours-sweep-1"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's own count")
def test_a_process_measures_its_case() -> None:
    """Each tensor of the 2,500 tasks with 10 points and 40 units has 4 MB; some ten are alive."""
    peak = Case("sinusoid", "ours-sweep-2500", tasks=2500).peak_bytes()
    assert 20e6 < peak < 200e6


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(OSError, match=r"exit status 1: .*no source given"):
        Case("sinusoid", "learn2learn").peak_bytes()
