"""Learning curve and gains by task, read off the files that a run leaves."""

from pathlib import Path

import numpy as np
import pytest

from lightning_maml.paper.run_tables import main, tables

CURVE = """step,train/loss,val/return_step0,val/return_step1,val/return_ci95,val/diverged
1,0.5,,,,
10,,-50.0,-20.25,3.0,0.0
20,,-40.0,-10.0,2.0,0.0
"""
LATER = CURVE.replace("20,,-40.0,-10.0", "20,,-30.0,5.0") + "30,,-30.0,7.0,1.0,0.0\n"


def run(folder: Path, name: str, content: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(content)
    return folder


def test_a_resumed_run_has_one_curve(tmp_path) -> None:
    parts = [
        run(tmp_path / str(number), "metrics.csv", content)
        for number, content in enumerate((CURVE, LATER))
    ]
    assert tables(parts) == [
        "| updates | step0 | step1 | ci95 |\n"
        "| --- | --- | --- | --- |\n"
        "| 10 | -50.0 | -20.2 | 3.0 |\n"
        "| 20 | -30.0 | 5.0 | 2.0 |\n"
        "| 30 | -30.0 | 7.0 | 1.0 |"
    ]
    assert "| 20 |" in tables(parts, every=2)[0]
    assert "| 30 |" not in tables(parts, every=2)[0]


def test_gains_are_paired(tmp_path, capsys) -> None:
    """The tasks differ by hundreds, the gains by little: only pairs show it."""
    generator = np.random.default_rng(0)
    before = generator.normal(0, 300, 12)
    after = before + generator.normal([[20.0], [40.0]], 3.0, (2, 12))
    lines = [
        f"t{i},0,0,0,{b},{x},{y}" for i, (b, x, y) in enumerate(zip(before, *after, strict=True))
    ]
    head = "task,loss_0,loss_1,loss_2,metric_0,metric_1,metric_2"
    main([str(run(tmp_path / "run", "test_result_tasks.csv", "\n".join([head, *lines])))])
    printed = capsys.readouterr().out.splitlines()
    for step, (row, values) in enumerate(zip(printed[2:], after, strict=True), 1):
        gain = values - before
        half = 1.96 * gain.std(ddof=1) / 12**0.5
        assert row == f"| {step} | {gain.mean():.1f} +- {half:.1f} |"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "RUN must be a folder with a metrics.csv"),
        (["nowhere", "--every", "0"], "--every must be at least 1, got 0"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
