"""docs/your_own_environment.md keeps its word: its files run in order, each in a fresh process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mujoco", reason="needs the extra `rl`")

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your_own_environment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|yaml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def run(folder, *command):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The blocks as files, by the names in their first lines."""
    folder = tmp_path_factory.mktemp("mine")
    for _, text in BLOCKS:
        if name := re.match(r"# (\S+\.\w+)\n", text):
            (folder / name[1]).write_text(text, encoding="utf-8")
    return folder


def test_the_cart_learns_to_adapt(folder) -> None:
    """Of the three steps of the curve, the first gains something."""
    printed = run(folder, "train_cart.py")
    curve = [float(value) for value in re.findall(r"^ +[0-3] +(\S+) +\+-", printed, re.MULTILINE)]
    assert len(curve) == 4
    assert max(curve[1:]) > curve[0] + 1


def test_the_pendulum_runs(folder) -> None:
    run(folder, "train_pendulum.py")


def test_the_config_finds_the_class_in_the_working_directory(folder) -> None:
    """As installed: the script that starts it lies elsewhere."""
    steps = ["--trainer.max_steps=1", "--trainer.accelerator=cpu"]
    run(folder, str(ROOT / "train.py"), "fit", "--config", "cart.yaml", *steps)
    assert list(folder.glob("runs/*/version_0/metrics.csv"))


def test_the_rest_runs_by_itself(folder) -> None:
    rest = [text for kind, text in BLOCKS if kind == "python" and not text.startswith("#")]
    assert len(rest) == 1
    run(folder, "-c", rest[0] + "assert info['task'] == [1.5]")


def test_what_it_names_exists() -> None:
    named = re.findall(r"`((?:configs|lightning_maml)/[\w/]+\.\w+)`", PAGE)
    assert len(named) == 3
    assert all((ROOT / name).exists() for name in named)
