"""A small finished run of the command line, and a way to start others."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import train

TRAINER = """\
trainer:
  max_steps: 4
  max_epochs: -1
  accelerator: cpu
  num_sanity_val_steps: 0
  log_every_n_steps: 1
  enable_progress_bar: false
  enable_model_summary: false
  logger:
    class_path: lightning.pytorch.loggers.CSVLogger
    init_args: {save_dir: runs, name: small}
  callbacks:
"""
CONFIG = """
model:
  class_path: lightning_maml.MetaLearner
  init_args:
    model:
      class_path: lightning_maml.models.MLP
      init_args: {hidden: [8]}
    loss: mse
    metric: mse
    inner_lr: 0.02
    eval_inner_steps: 2
data:
  class_path: datamodules.Sinusoid
  init_args:
    k_shot: 10
    eval_query_shot: 6
    meta_batch_size: 3
    eval_batch_size: 4
    train_batches_per_epoch: 2
    val_tasks: 5
    test_tasks: 7
    seed: 3
"""
CONFIG += (
    TRAINER
    + """\
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        monitor: val/mse
        save_last: true
        save_on_train_epoch_end: false
        filename: "best-{step}"
"""
)
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]


class Refused(NamedTuple):
    """How a command ended that was refused."""

    code: int
    message: str


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small config."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints last.ckpt and best-step=<n>.ckpt of a run of `config`."""
    folder = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(folder):
        train.main(["fit", "--config", str(config)])
    return folder / "runs" / "small" / "version_0" / "checkpoints"


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., Refused]:
    """Run a command that must be refused; returns its exit code and its only line."""

    def run(*args: object) -> Refused:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            train.main([str(arg) for arg in args])
        lines = capfd.readouterr().err.splitlines()
        noise = ("INFO: ", "GPU ", "TPU ", "Seed ", "Run folder", "Restoring", "Loaded ", "--ckpt_")
        (message,) = [line for line in lines if line.strip() and not line.startswith(noise)]
        assert isinstance(stop.value.code, int)
        return Refused(stop.value.code, message)

    return run


def result_of(folder: Path) -> dict[str, Any]:
    """The one result file under `folder`."""
    (path,) = folder.rglob("test_result.json")
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
