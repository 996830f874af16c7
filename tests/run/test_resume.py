"""Runs that were killed or stopped go on as if nothing had happened, their W&B curve as well."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_maml.run.wandb_file import history

ROOT = Path(__file__).parents[2]

# 30 updates of 2 batches in epochs of 13: checkpoints fall within epochs, and within updates.
CONFIG = """
seed_everything: 7
model:
  class_path: lightning_maml.MetaLearner
  init_args:
    model: {class_path: tests.run.test_resume.Dropping}
    loss: mse
    inner_lr: 0.02
    inner_steps: 2
    learn_inner_lr: per_tensor_and_step
    accumulate_batches: 2
    scheduler:
      class_path: torch.optim.lr_scheduler.CosineAnnealingLR
      init_args: {T_max: 30}
data:
  class_path: datamodules.Sinusoid
  init_args:
    {meta_batch_size: 3, eval_batch_size: 5, train_batches_per_epoch: 13, val_tasks: 5, seed: 3}
trainer:
  max_steps: 30
  max_epochs: -1
  accelerator: cpu
  num_sanity_val_steps: 0
  log_every_n_steps: 2
  enable_model_summary: false
  logger:
    - class_path: lightning.pytorch.loggers.CSVLogger
      init_args: {save_dir: runs, name: small}
    - class_path: lightning_maml.run.wandb_logging.WandbLogger
      init_args: {save_dir: runs, name: small}
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {monitor: val/loss, save_on_train_epoch_end: false, filename: "best-{step}"}
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        {filename: last, enable_version_counter: false, SAVE}
    - class_path: tests.run.test_resume.EndBy
"""
WHEN = {
    "after an epoch": "save_on_train_epoch_end: false",
    "within an epoch": "every_n_train_steps: 5, save_on_train_epoch_end: false",
}


class Dropping(torch.nn.Module):
    """A network that draws random numbers as it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[examples, 1] -> [examples, 1]``."""
        return self.layers(x)


class EndBy(Callback):
    """Sends process `rank` of the run a signal at batch `batch` of the run, counted from 1.

    Of a negative number: twice, in that validation of the run.
    """

    def __init__(self, number: int = 0, batch: int = 0, rank: int = 0) -> None:
        self.number, self.batch, self.rank = number, batch, rank
        self.seen = self.validations = 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count, and send it."""
        self.seen += 1
        if self.seen == self.batch and trainer.global_rank == self.rank:
            os.kill(os.getpid(), self.number)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count, and send it twice."""
        self.validations += 1
        if self.validations == -self.batch:
            for _ in range(2):
                os.kill(os.getpid(), self.number)


def fit(folder: Path, *flags: str, when: str, end: tuple[int, int] = (0, 0)) -> tuple[int, str]:
    """Run the config in `folder`; returns the exit code and what it said."""
    config = folder / "small.yaml"
    folder.mkdir(exist_ok=True)
    config.write_text(CONFIG.replace("SAVE", WHEN[when]), encoding="utf-8")
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    number, batch = end
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "train.py"), "fit", f"--config={config}", *flags,
            f"--trainer.callbacks.init_args.number={number}",
            f"--trainer.callbacks.init_args.batch={batch}",
        ],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return done.returncode, done.stderr


def final(folder: Path) -> dict[str, Any]:
    """The newest checkpoint."""
    paths = sorted(folder.rglob("last*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return torch.load(paths[-1], weights_only=True)


def rows(folder: Path) -> list[dict[str, Any]]:
    """What W&B has of the run, but for times and pictures."""
    found = [row for part in sorted(folder.glob("runs/wandb/offline-*")) for row in history(part)]
    names = ("_step", "trainer/global_step", "train/", "val/loss", "val/diverged")
    return [
        {k: v for k, v in row.items() if k.startswith(names) and k != "train/tasks_per_s"}
        for row in found
    ]


def assert_same(one: Any, other: Any, name: str = "") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), name
        for key in one:
            assert_same(one[key], other[key], f"{name}/{key}")
    elif isinstance(one, list):
        assert_same(dict(enumerate(one)), dict(enumerate(other)), name)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), name
    else:
        assert one == other, name


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Callable[[str], Path]:
    """Folders of runs that nothing happened to, one for each way of saving."""

    @cache
    def run(when: str) -> Path:
        folder = tmp_path_factory.mktemp("straight")
        code, said = fit(folder, when=when)
        assert code == 0, said
        last = said.splitlines()[-1]
        assert last.startswith("W&B: logged offline; to upload: wandb sync runs/wandb")
        return folder

    return run


ENDS = {
    "killed": (signal.SIGKILL, 45),
    "terminated": (signal.SIGTERM, 32),
    "Ctrl-C": (signal.SIGINT, 40),
    "Ctrl-C twice": (signal.SIGINT, -4),
    "terminated twice": (signal.SIGTERM, -4),
}
CODES = {"killed": -9, "terminated": 143, "Ctrl-C": 130, "Ctrl-C twice": 1, "terminated twice": -15}


BY_DEFAULT = [("within an epoch", "killed", 2)]
CASES = [
    pytest.param(*case, marks=[] if case in BY_DEFAULT else [pytest.mark.slow])
    for when in WHEN
    for case in [
        (when, "killed", 2), (when, "killed", 0), (when, "terminated", 0), (when, "Ctrl-C", 2),
        (when, "Ctrl-C twice", 0), (when, "terminated twice", 2),
    ]
]  # fmt: skip


@pytest.mark.parametrize(("when", "how", "workers"), CASES)
def test_a_run_goes_on_as_if_nothing_had_happened(straight, tmp_path, when, how, workers) -> None:
    """A34, A38: weights, optimizer, scheduler to the bit; the curve without gap or step back."""
    folder = straight(when)
    flags = [f"--data.num_workers={workers}"]
    code, said = fit(tmp_path, *flags, when=when, end=ENDS[how])
    assert code == CODES[how], said
    before = final(tmp_path)["global_step"]
    assert 0 < before < 30
    code, said = fit(tmp_path, *flags, "--ckpt_path=last", when=when)
    assert code == 0, said
    parts = sorted(path.name for path in tmp_path.glob("runs/wandb/offline-*"))
    assert len(parts) == 2
    assert parts[0].split("-")[-1] == parts[1].split("-")[-1]  # the same id
    line = said.splitlines()[-1]
    assert all(f"runs/wandb/{part}" in line for part in parts)

    one, other = final(folder), final(tmp_path)
    assert other["global_step"] == 30
    first, second = other["callbacks"]["RunState"]["commands"]
    assert " fit " in first
    assert ["--ckpt_path=last" in command for command in (first, second)] == [False, True]
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(one[part], other[part], part)
    assert rows(tmp_path) == rows(folder)
    steps = [row["_step"] for row in rows(tmp_path)]
    assert steps == sorted(set(steps))
    assert set(range(2, 31, 2)) <= set(steps)
