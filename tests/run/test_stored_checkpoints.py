"""Checkpoints of every version can still be tested and gone on with.

`tests/checkpoints/<version>.ckpt` is what `train.py fit --config small.yaml` left, with the config
of conftest.py, and the file beside it holds what `test --ckpt_path` said then.
"""

import json
import tomllib
from pathlib import Path

import pytest
import torch

import train
from tests.run.conftest import QUIET, result_of

ROOT = Path(__file__).parents[2]
STORED = sorted((ROOT / "tests" / "checkpoints").glob("*.ckpt"))


def test_there_is_one_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] in [path.stem for path in STORED]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_its_test_says_what_it_said(tmp_path, monkeypatch, path) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(["test", f"--ckpt_path={path}", *QUIET])
    said = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    now = result_of(tmp_path)
    assert {key: now[key] for key in said if key != "mean"} == {
        key: said[key] for key in said if key != "mean"
    }
    assert now["mean"] == pytest.approx(said["mean"], rel=1e-5)


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_its_run_can_go_on(config, tmp_path, monkeypatch, path) -> None:
    monkeypatch.chdir(tmp_path)
    train.main(["fit", f"--config={config}", f"--ckpt_path={path}", "--trainer.max_steps=6"])
    (last,) = tmp_path.rglob("last.ckpt")
    assert torch.load(last, weights_only=True)["global_step"] == 6
