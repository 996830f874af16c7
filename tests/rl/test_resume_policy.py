"""A run of a policy that was killed goes on as if nothing had happened."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

import train
from tests.run.conftest import TRAINER

# 4 updates in epochs of 3.
CONFIG = """
seed_everything: 7
model:
  class_path: lightning_maml.rl.MetaPolicy
  init_args:
    policy:
      class_path: lightning_maml.rl.GaussianMLP
      init_args: {observation_size: 2, action_size: 2, hidden: [8]}
    environment:
      class_path: lightning_maml.rl.envs.Point
      init_args: {horizon: 10}
    trajectories: 2
    eval_inner_steps: 1
data:
  class_path: datamodules.RLTasks
  init_args:
    {low: [-0.5, -0.5], high: [0.5, 0.5], meta_batch_size: 4, train_batches_per_epoch: 3,
     val_tasks: 2, seed: 3}
"""
CONFIG += (
    TRAINER
    + """\
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {filename: last, enable_version_counter: false, SAVE}
    - class_path: tests.rl.test_resume_policy.Ends
      init_args: {batch: 0}
"""
)
WHEN = {
    "after an epoch": ("save_on_train_epoch_end: false", 3),
    "within an epoch": ("every_n_train_steps: 2, save_on_train_epoch_end: false", 2),
}


class Killed(BaseException):
    """Nothing in a run catches it to save what it has."""


class Ends(Callback):
    """Ends the run at the start of batch `batch`, counted from 1; notes what was logged last."""

    logged: dict[str, float]

    def __init__(self, batch: int) -> None:
        self.batch, self.seen = batch, 0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count, and end it."""
        self.seen += 1
        if self.seen == self.batch:
            raise Killed

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What does not depend on the time it took."""
        watched = pl_module.watched.items()
        Ends.logged = {k: v for k, v in watched if not k.endswith("_s")}


def fit(folder: Path, save: str, *flags: str) -> None:
    config = folder / "small.yaml"
    config.write_text(CONFIG.replace("SAVE", save), encoding="utf-8")
    train.main(["fit", f"--config={config}", *flags])


def final(folder: Path) -> dict[str, Any]:
    """The newest checkpoint."""
    paths = sorted(folder.rglob("last.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return torch.load(paths[-1], weights_only=True)


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # a new folder each
# After an update is what is wanted.
@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization:UserWarning")
@pytest.mark.parametrize(
    "when", ["within an epoch", pytest.param("after an epoch", marks=pytest.mark.slow)]
)
def test_a_policy_s_run_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, when) -> None:
    """A34, A38 for reinforcement learning: the weights to the bit, and what the update logs."""
    save, saved_at = WHEN[when]
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
    monkeypatch.chdir(straight)
    fit(straight, save)
    expected, logged = final(straight), Ends.logged
    monkeypatch.chdir(resumed)
    with pytest.raises(Killed):
        fit(resumed, save, "--trainer.callbacks.init_args.batch=4")
    before = final(resumed)
    assert before["global_step"] == saved_at
    fit(resumed, save, "--ckpt_path=last")
    found = final(resumed)
    assert found["global_step"] == expected["global_step"] == 4
    assert Ends.logged == logged
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name
        assert not torch.equal(before["state_dict"][name], value), name
