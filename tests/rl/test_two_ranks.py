"""Meta-updates of two processes (gloo, CPU), started as a user's script would be."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from datamodules import RLTasks
from lightning_maml.rl import GaussianMLP, MetaPolicy, Transition
from lightning_maml.rl.envs import Point

ROOT = Path(__file__).parents[2]
WATCHED = ("kl", "tries", "accepted", "loss", "return", "return_before", "broken")
UPDATES, TASKS = 3, 4


class Fragile(Point):
    """Breaks in the last step where the point is too far out, so that all rollouts are as long."""

    steps = 0

    def step(self, state: Any, actions: Any, tasks: Any) -> Transition:
        moved = super().step(state, actions, tasks)
        self.steps += 1
        far = np.abs(moved.observation).max(axis=-1) > 0.3
        return moved._replace(broken=far & (self.steps % self.horizon == 0))


class Notes(Callback):
    """Writes what each process sees."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines = folder, []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.lines.append([pl_module.watched[name] for name in WATCHED])

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        rank = trainer.global_rank
        torch.save(pl_module.policy.state_dict(), self.folder / f"weights_{rank}.pt")
        (self.folder / f"watched_{rank}.json").write_text(json.dumps(self.lines))


# -- what the processes do ---------------------------------------------------------------------


def run(folder: Path, processes: int, precision: str, policy: Any = None, **settings: Any) -> None:
    """Three updates of four tasks in all, then five test tasks."""
    seed_everything(0, verbose=False)
    policy = policy or GaussianMLP(2, 2, (8, 8))
    model = MetaPolicy(policy, Fragile(horizon=10), trajectories=3, max_kl=0.05, **settings)
    data = RLTasks(
        low=[-0.5, -0.5], high=[0.5, 0.5], meta_batch_size=TASKS // processes,
        eval_batch_size=2, test_tasks=5,
    )  # fmt: skip
    run = Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto",
        precision=precision, max_steps=UPDATES, max_epochs=-1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        limit_val_batches=0, num_sanity_val_steps=0, use_distributed_sampler=False,
        callbacks=[Notes(folder)], default_root_dir=folder,
    )  # fmt: skip
    run.fit(model, data)
    run.test(model, data, verbose=False)


def double(folder: Path, processes: int) -> None:
    """In 64 bits."""
    # Ten iterations of conjugate gradient would multiply rounding errors by 1e5 in each update.
    run(folder, processes, "64-true", cg_iterations=3)


class Lost(GaussianMLP):
    """Gives NaN, in the second process only."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        output = super().forward(observation)
        return output * torch.nan if os.environ.get("LOCAL_RANK") == "1" else output


def lost(folder: Path, processes: int) -> None:
    """What the first process says of the second's error."""
    try:
        run(folder, processes, "32-true", Lost(2, 2, (8, 8)))
    except FloatingPointError as error:
        rank = os.environ.get("LOCAL_RANK", "0")
        (folder / f"said_{rank}.txt").write_text(str(error))


# -- what comes out ----------------------------------------------------------------------------


def start(role: Any, folder: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, __file__, role.__name__, str(folder), str(processes)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def results(folder: Path, rank: int) -> tuple[dict[str, torch.Tensor], Any]:
    weights = torch.load(folder / f"weights_{rank}.pt", weights_only=True)
    return weights, json.loads((folder / f"watched_{rank}.json").read_text())


def result_of(folder: Path) -> dict[str, Any]:
    """The one result file."""
    (path,) = folder.rglob("test_result.json")
    return json.loads(path.read_text())


def test_two_ranks_step_as_one_with_all_tasks(tmp_path) -> None:
    """Bit-equal on both, and to rounding as one process; the line search decides the same.

    So is the result of a test with an odd number of tasks.
    """
    done = start(double, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    weights, watched = results(tmp_path / "two", 0)
    others, other_watched = results(tmp_path / "two", 1)
    assert len(watched) == UPDATES
    assert watched == other_watched
    (tmp_path / "one").mkdir()
    double(tmp_path / "one", 1)
    alone, expected = results(tmp_path / "one", 0)
    for name, value in weights.items():
        assert value.dtype == torch.float64
        assert torch.equal(value, others[name])
        torch.testing.assert_close(value, alone[name], rtol=1e-9, atol=1e-9)
    for name in ("accepted", "broken"):
        assert sum(row[WATCHED.index(name)] for row in expected) > 0
    assert watched == [pytest.approx(row, rel=1e-6) for row in expected]
    tested, whole = (result_of(tmp_path / name) for name in ("two", "one"))
    for name in ("fingerprint", "tasks", "steps", "diverged"):
        assert tested[name] == whole[name]
    assert (tested["tasks"], tested["device"]["processes"]) == (5, 2)
    for name in ("mean", "ci95", "median"):
        assert tested[name] == pytest.approx(whole[name], rel=1e-6)


def test_an_error_in_one_rank_is_one_in_both(tmp_path) -> None:
    """The first would else wait for ever for the second."""
    start(lost, tmp_path)
    said = [(tmp_path / f"said_{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0] == said[1]
    assert "not finite at meta-update 1" in said[0]


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
