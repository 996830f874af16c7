"""Each command of the script for a GPU is one that its benchmark takes."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path("benchmarks/on_gpu.sh")
NOT_THE_BENCHMARKS = ("--trainer.", "--data.", "--model.")  # flags of the run, passed on


def commands() -> list[list[str]]:
    path = f"{Path(sys.executable).parent}:/bin:/usr/bin"
    command = ["bash", str(SCRIPT), "data"]
    surroundings = {"DRY": "1", "PATH": path}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
    return [line.split()[1:] for line in done.stdout.splitlines()]


def test_every_command_is_understood(monkeypatch, capsys) -> None:
    """With `--help` behind it: what stands before is parsed first."""
    seen = set()
    for script, *arguments in commands():
        monkeypatch.setattr(sys, "argv", [script, *arguments, "--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script, run_name="__main__")
        printed = capsys.readouterr()
        assert ended.value.code == 0, printed.err
        flags = [
            a for a in arguments if a.startswith("--") and not a.startswith(NOT_THE_BENCHMARKS)
        ]
        assert all(re.search(rf"{flag}\b", printed.out) for flag in flags), (script, flags)
        configs = [a for a in arguments if a.endswith(".yaml")]
        assert all(map(Path.is_file, map(Path, configs)))
        seen.add(Path(script).stem)
    assert seen == {"against_peers", "memory", "precision", "training", "scaling", "speedrun"}


def test_a_part_that_fails_does_not_end_the_others(tmp_path) -> None:
    """With a `python` that fails and keeps what it was called with."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$1" >> "$LOG"\nexit 3\n')
    python.chmod(0o755)
    log = tmp_path / "log"
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    done = subprocess.run(
        ["bash", str(SCRIPT.resolve()), "data"], cwd=tmp_path, capture_output=True,
        env={"PATH": f"{tmp_path}:/bin:/usr/bin", "LOG": str(log)},
    )  # fmt: skip
    assert done.returncode == 1
    assert log.read_text().split().count("benchmarks/speedrun.py") == 3
