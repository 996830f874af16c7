"""Training and evaluation on several processes (gloo, CPU), started as a user's script would be."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from datamodules import Sinusoid
from lightning_maml import Episode, MetaLearner
from lightning_maml.baselines import Pretrained
from tests.baselines.small_methods import PLAIN, STATEFUL, small_learner, small_tasks
from tests.run.test_resume import Dropping, assert_same
from tests.test_meta_learner import loader, trainer
from tests.test_modules import WithUnused, regression

ROOT = Path(__file__).parents[1]
SLOW = pytest.mark.slow
STEP_SIZES = (0.02, 0.05, 0.1, 0.2, 0.3)


def sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def several(folder: Path, processes: int, **settings: Any) -> Trainer:
    return Trainer(
        **{
            "accelerator": "cpu", "devices": processes, "enable_progress_bar": False,
            "strategy": "ddp" if processes > 1 else "auto", "enable_model_summary": False,
            "logger": CSVLogger(folder, "run"), "enable_checkpointing": False,
            "num_sanity_val_steps": 0, "precision": "64-true", "use_distributed_sampler": False,
            **settings,
        }
    )  # fmt: skip


# -- what the processes do ---------------------------------------------------------------------


def unused_parameter(folder: Path, processes: int) -> None:
    """Two updates of a net with a parameter that its output does not depend on."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    share = Episode(*(part[2 * rank : 2 * rank + 2] for part in regression(4, width=3)))
    maml = unused_learner()
    several(folder, processes, max_steps=2, logger=False).fit(maml, loader(share))
    if rank == 0:
        torch.save(maml.state_dict(), folder / "weights.pt")


def train_and_test(folder: Path, processes: int) -> None:
    """Four updates of 24 tasks each, then 601 test tasks."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    maml = MetaLearner(
        net, loss=F.mse_loss, inner_lr=0.05, learn_inner_lr="per_tensor", accumulate_batches=2
    )
    data = Sinusoid(
        meta_batch_size=12 // processes, train_batches_per_epoch=8, val_tasks=7, test_tasks=601,
        eval_batch_size=50,
    )  # fmt: skip
    run = several(folder, processes, max_steps=4, log_every_n_steps=1)
    run.fit(maml, data)
    if run.is_global_zero:
        torch.save(maml.state_dict(), folder / "weights.pt")
    run.test(maml, data, verbose=False)


def tune_and_test(folder: Path, processes: int) -> None:
    """The step size of fine-tuning on seven validation tasks, then 31 test tasks."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    model = Pretrained(net, loss=F.mse_loss, eval_inner_steps=2, fine_tuning_lrs=STEP_SIZES)
    data = Sinusoid(val_tasks=7, test_tasks=31, eval_batch_size=2)
    several(folder, processes).test(model, data, verbose=False)


def train_methods(folder: Path, processes: int) -> None:
    """Four updates of methods without an inner loop, one method after another; then seven tasks."""
    ends = {}
    for name in (*PLAIN, *STATEFUL):
        method = small_learner(name)
        run = several(folder, processes, max_steps=4, logger=False, default_root_dir=folder)
        torch.manual_seed(run.global_rank)
        run.fit(method, small_tasks(4 // processes))
        run.test(method, small_tasks(), verbose=False)
        ends[name] = (method.state_dict(), float(method.curve.collected()[0].loss.mean()))
    torch.save(ends, folder / f"ends_{run.global_rank}.pt")


def dropping_run(folder: Path, processes: int, *callbacks: Callback, **settings: Any) -> None:
    """Ten updates of a net that draws random numbers, others in each process."""

    class Seed(Callback):
        def on_fit_start(self, run: Trainer, pl_module: object) -> None:
            torch.manual_seed(run.global_rank)

    torch.manual_seed(0)
    maml = MetaLearner(Dropping(), loss=F.mse_loss, inner_lr=0.01)
    saver = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    run = several(
        folder, processes, max_epochs=1, callbacks=[Seed(), *callbacks, saver],
        enable_checkpointing=True, inference_mode=False,
    )  # fmt: skip
    run.fit(maml, Sinusoid(train_batches_per_epoch=10), weights_only=True, **settings)
    if run.is_global_zero:
        torch.save(maml.state_dict(), folder / "weights.pt")


def terminated(folder: Path, processes: int) -> None:
    """SIGTERM reaches the second process alone, in the third of ten batches."""

    class Terminate(Callback):
        def on_train_batch_start(self, run: Trainer, *args: Any) -> None:
            if run.global_rank == 1 and args[-1] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    dropping_run(folder, processes, Terminate())


def resumed(folder: Path, processes: int) -> None:
    """Goes on from there."""
    dropping_run(folder, processes, ckpt_path=folder / "last.ckpt")


# -- what comes out ----------------------------------------------------------------------------


def start(role: Any, folder: Path, processes: int) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, __file__, role.__name__, str(folder), str(processes)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def unused_learner() -> MetaLearner:
    return MetaLearner(WithUnused(), loss=F.mse_loss, inner_lr=0.1, optimizer=sgd)


def assert_same_weights(folder: Path, others: dict[str, torch.Tensor], tolerance: float) -> None:
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert weights.keys() == others.keys()
    for name, tensor in others.items():
        torch.testing.assert_close(weights[name], tensor, rtol=tolerance, atol=tolerance)


def test_an_unused_parameter_on_two_processes(tmp_path: Path) -> None:
    """A07: no hang, and the weights are those of one process with all four tasks."""
    done = start(unused_parameter, tmp_path, 2)
    assert done.returncode == 0, done.stderr
    alone = unused_learner()
    trainer(tmp_path, max_steps=2).fit(alone, loader(regression(4, width=3)))
    assert_same_weights(tmp_path, alone.state_dict(), 1e-10)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one process."""
    folder = tmp_path_factory.mktemp("one")
    train_and_test(folder, 1)
    return folder


@pytest.mark.parametrize("processes", [2, *(pytest.param(n, marks=SLOW) for n in (3, 4))])
def test_processes_together_are_one_with_their_tasks(
    alone: Path, tmp_path: Path, processes: int
) -> None:
    """A33: weights after four updates, logged loss, and the result over 601 test tasks."""
    done = start(train_and_test, tmp_path, processes)
    assert done.returncode == 0, done.stderr
    one = torch.load(alone / "weights.pt", weights_only=True)
    assert_same_weights(tmp_path, one, 1e-6)

    result, expected = result_of(tmp_path), result_of(alone)
    assert result["device"]["processes"] == processes
    for key in ("tasks", "fingerprint", "diverged"):
        assert result[key] == expected[key]
    assert result["tasks"] == 601
    for key in ("mean", "ci95", "median"):
        assert result[key] == pytest.approx(expected[key], rel=1e-9)
    assert len(list(tmp_path.rglob("test_result*.json"))) == 2  # with the fits: of rank 0 alone
    assert done.stdout.count("result file: ") == 1
    assert train_losses(tmp_path) == pytest.approx(train_losses(alone), rel=1e-6)


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run" / "version_0" / "test_result.json").read_text())


def train_losses(folder: Path) -> list[float]:
    lines = (folder / "run" / "version_0" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("train/loss")
    return [float(line.split(",")[column]) for line in lines[1:] if line.split(",")[column]]


def test_processes_tune_the_step_size_as_one(tmp_path: Path) -> None:
    """The same means on the validation tasks, the same choice, the same result with it."""
    done = start(tune_and_test, tmp_path / "two", 2)
    assert done.returncode == 0, done.stderr
    tune_and_test(tmp_path / "one", 1)
    result, expected = (result_of(tmp_path / name) for name in ("two", "one"))
    assert result["device"]["processes"] == 2
    assert min(STEP_SIZES) < expected["tuning"]["chosen"] < max(STEP_SIZES)
    assert result["tuning"]["chosen"] == expected["tuning"]["chosen"]
    assert result["mean"] == pytest.approx(expected["mean"], rel=1e-9)
    val_means = expected["tuning"]["val_means"]
    assert result["tuning"]["val_means"] == pytest.approx(val_means, rel=1e-9)


@pytest.mark.slow
def test_processes_train_a_method_as_one(tmp_path: Path) -> None:
    """Where neither batch norm nor random numbers tie a task to its process.

    Elsewhere weights and running statistics are those of the other process, at least.
    """
    done = start(train_methods, tmp_path, 2)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"ends_{rank}.pt") for rank in range(2))
    train_methods(tmp_path, 1)
    one = torch.load(tmp_path / "ends_0.pt")
    for name, (weights, loss) in first.items():
        assert_same(dict(weights), dict(second[name][0]), name)
        assert loss == second[name][1]
        if name in PLAIN:
            assert loss == pytest.approx(one[name][1], rel=1e-6)
            for key, tensor in one[name][0].items():
                torch.testing.assert_close(weights[key], tensor, rtol=1e-6, atol=1e-6)


def test_processes_stop_together_and_go_on(tmp_path: Path) -> None:
    """After the same batch, with one checkpoint that holds the generators of each."""
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    done = start(dropping_run, straight, 2)
    assert done.returncode == 0, done.stderr
    done = start(terminated, stopped, 2)
    assert done.returncode == 143, done.stderr
    (path,) = stopped.rglob("*.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 3
    done = start(resumed, stopped, 2)
    assert done.returncode == 0, done.stderr
    others = torch.load(stopped / "weights.pt", weights_only=True)
    assert_same_weights(straight, others, 0.0)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
