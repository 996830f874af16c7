"""The progress bar as a terminal gets it."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ["--trainer.enable_progress_bar=true", "--trainer.enable_model_summary=false"]


def on_terminal(config: Path, folder: Path, columns: int, *flags: str) -> list[str]:
    """States of the lines that `fit` shows on a terminal so wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    run = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "fit", f"--config={config}", *FLAGS, *flags],
        cwd=folder, stderr=theirs, stdout=theirs, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 65536):
            said += part
    except OSError:  # the other end is closed
        pass
    assert run.wait(timeout=60) == 0, said.decode()
    text = re.sub("\x1b\\[[0-9;]*[A-Za-z]", "", said.decode())
    return [state for state in re.split(r"[\r\n]+", text) if "|" in state]


@pytest.mark.parametrize(("columns", "width"), [(80, 80), (60, 60), (0, 80)])
def test_the_bar_fits_the_terminal(config, tmp_path, columns, width) -> None:
    """0 columns: the terminal does not know."""
    states = on_terminal(config, tmp_path, columns)
    assert max(map(len, states)) <= width
    training = [state for state in states if "loss" in state]
    assert "4/4" in training[-1]
    if width == 80:
        assert re.search(r"4/4 \d+:\d+<\d+:\d+, loss [\d.]+, .*[\d.]+ tasks/s", training[-1])
    assert any("validating" in state for state in states)


def test_a_resumed_bar_starts_where_the_run_was(config, tmp_path) -> None:
    on_terminal(config, tmp_path, 80)
    (checkpoint,) = tmp_path.rglob("last.ckpt")
    states = on_terminal(config, tmp_path, 80, f"--ckpt_path={checkpoint}", "--trainer.max_steps=6")
    counts = [match[1] for state in states if (match := re.search(r"(\d)/6", state))]
    assert (counts[0], counts[-1]) == ("4", "6")
