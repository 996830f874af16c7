"""The pages keep their word.

docs/your_own_environment.md: its files run in order, each in a fresh process. `PAGES`: their blocks
run in order, in one namespace and one folder, and print what stands below them in a block "output":
the same words, and numbers within `TOLERANCE`. One that begins with a file's name is written to it,
too. Blocks "text" are not run.
"""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import train

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your_own_environment.md").read_text(encoding="utf-8")
PAGES = ["predictions.md", "from_learn2learn.md", "choosing_settings.md", "your_own_encoder.md"]
TOLERANCE = {"rel": 0.25, "abs": 0.06}  # of another processor's rounding, after some training
NUMBER = re.compile(r"-?\d+\.\d+")
BLOCKS = re.findall(r"^```(python|yaml)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


needs_rl = pytest.mark.skipif(not importlib.util.find_spec("mujoco"), reason="needs the extra `rl`")


@pytest.mark.parametrize("page", PAGES)
def test_page_runs_and_prints_what_it_says(page, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert {kind for kind, _ in blocks} <= {"python", "sh", "yaml", "text", "output"}
    namespace: dict[str, object] = {"__name__": "page"}
    printed = ""
    for kind, block in blocks:
        if name := re.match(r"# (\w+\.py)\n", block):
            Path(name[1]).write_text(block, encoding="utf-8")
        if kind == "output":
            assert_same_but_for_rounding(printed, block)
        elif kind in ("python", "sh"):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                execute(kind, block, namespace, page)
            printed = out.getvalue()


@pytest.mark.parametrize("page", [*PAGES, "watching_a_run.md"])
def test_links_of_a_page_lead_somewhere(page) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)", text)
    assert not [link for link in links if not (ROOT / "docs" / link).exists()]


def execute(kind: str, block: str, namespace: dict[str, object], page: str) -> None:
    if kind == "python":
        exec(compile(block, page, "exec"), namespace)
        return
    for line in block.replace("\\\n", " ").splitlines():
        program, script, *args = shlex.split(line)
        assert (program, script) == ("python", "train.py")
        train.main([*args, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"])


def assert_same_but_for_rounding(printed: str, said: str) -> None:
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", said).split(), printed
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (printed, said)]
    assert numbers[0] == pytest.approx(numbers[1], **TOLERANCE), printed


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


@pytest.mark.slow
@needs_rl
def test_the_cart_learns_to_adapt(folder) -> None:
    """Of the three steps of the curve, the first gains something."""
    printed = run(folder, "train_cart.py")
    curve = [float(value) for value in re.findall(r"^ +[0-3] +(\S+) +\+-", printed, re.MULTILINE)]
    assert len(curve) == 4
    assert max(curve[1:]) > curve[0] + 1


@needs_rl
def test_the_pendulum_runs(folder) -> None:
    run(folder, "train_pendulum.py")


@needs_rl
def test_the_config_finds_the_class_in_the_working_directory(folder) -> None:
    """As installed: the script that starts it lies elsewhere."""
    steps = ["--trainer.max_steps=1", "--trainer.accelerator=cpu"]
    run(folder, str(ROOT / "train.py"), "fit", "--config", "cart.yaml", *steps)
    assert list(folder.glob("runs/*/version_0/metrics.csv"))


@needs_rl
def test_the_rest_runs_by_itself(folder) -> None:
    rest = [text for kind, text in BLOCKS if kind == "python" and not text.startswith("#")]
    assert len(rest) == 1
    run(folder, "-c", rest[0] + "assert info['task'] == [1.5]")


def test_what_it_names_exists() -> None:
    named = re.findall(r"`((?:configs|lightning_maml)/[\w/]+\.\w+)`", PAGE)
    assert len(named) == 3
    assert all((ROOT / name).exists() for name in named)
