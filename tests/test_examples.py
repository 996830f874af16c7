"""The examples run as they stand, and adaptation helps in each."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Script: how much lower (or higher) the second number of its output must be than the first.
SCRIPTS = {
    "sinusoid": 0.7,
    "few_shot_images": 2.0,
    "own_module": 0.7,
    "own_inner_rule": 0.9,
    "plain_pytorch": 0.9,
}


def test_every_example_is_run_and_listed() -> None:
    there = {path.stem for path in (ROOT / "examples").glob("*.py")}
    listed = re.findall(r"examples/(\w+)\.py", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert there == set(SCRIPTS) == set(listed)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_example(name, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = re.findall(r"\d+\.\d+", done.stdout)[:2]
    ratio = float(after) / float(before)
    assert ratio > SCRIPTS[name] if SCRIPTS[name] > 1 else ratio < SCRIPTS[name], done.stdout
    if name == "sinusoid":
        assert (tmp_path / "sinusoid.png").stat().st_size > 10_000
