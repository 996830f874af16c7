"""A `MetaPolicy` from its checkpoint: what may be changed, and what a config must give."""

import contextlib
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer

import train
from datamodules import RLTasks
from lightning_maml.rl import GaussianMLP, MetaPolicy
from lightning_maml.rl.envs import Point
from tests.run.conftest import QUIET, result_of

POLICY = {
    "class_path": "lightning_maml.rl.GaussianMLP",
    "init_args": {"observation_size": 2, "action_size": 2, "hidden": [8]},
}
POINT = {"class_path": "lightning_maml.rl.envs.Point", "init_args": {"horizon": 5}}
TASKS = {"low": [-0.5, -0.5], "high": [0.5, 0.5], "meta_batch_size": 2, "test_tasks": 3}
BRIEF = {
    "accelerator": "cpu",
    "max_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
    "log_every_n_steps": 1,
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(path: Path, **parts: object) -> Path:
    path.write_text(yaml.safe_dump(parts), encoding="utf-8")
    return path


def mean_of(checkpoint: Path, model: MetaPolicy, data: RLTasks) -> list[float]:
    """Mean returns of a learner made here, with the checkpoint's weights."""
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    (tasks,) = data.test_dataloader()
    return model.evaluate(tasks).metric.mean(dim=1).tolist()


# -- of the command line -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def cheetah(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a meta-update of the half-cheetah."""
    pytest.importorskip("mujoco", reason="needs the extra `rl`")
    folder = tmp_path_factory.mktemp("cheetah")
    sizes = {"observation_size": 20, "action_size": 6, "hidden": [8]}
    robot = {"task": "velocity", "horizon": 5, "threads": 1}
    model = {
        "policy": POLICY | {"init_args": sizes},
        "environment": {
            "class_path": "lightning_maml.rl.envs.HalfCheetah",
            "init_args": robot,
        },
        "trajectories": 2,
        "eval_inner_steps": 1,
    }
    data = TASKS | {"low": [0.0], "high": [2.0], "train_batches_per_epoch": 1}
    config = write(
        folder / "cheetah.yaml",
        model={"class_path": "lightning_maml.rl.MetaPolicy", "init_args": model},
        data={"class_path": "datamodules.RLTasks", "init_args": data},
        trainer=BRIEF,
    )
    with contextlib.chdir(folder):
        train.main(["fit", f"--config={config}"])
    path, *_ = folder.rglob("*.ckpt")
    return path


def test_settings_of_evaluation_and_of_the_machine_may_change(cheetah, tmp_path) -> None:
    from lightning_maml.rl.envs import HalfCheetah

    free = ["--model.eval_trajectories=3", "--model.common_noise=true", "--model.render=true"]
    threads = "--model.environment.init_args.threads=2"
    train.main(["test", f"--ckpt_path={cheetah}", *free, threads, *QUIET])
    result = result_of(tmp_path)
    settings = result["model"]["init_args"]
    assert settings["environment"]["init_args"]["threads"] == 2
    assert settings["render"] is True
    model = MetaPolicy(
        GaussianMLP(20, 6, (8,)), HalfCheetah("velocity", horizon=5), eval_inner_steps=1,
        eval_trajectories=3, common_noise=True,
    )  # fmt: skip
    want = mean_of(cheetah, model, RLTasks(**TASKS | {"low": [0.0], "high": [2.0]}))
    assert result["mean"] == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("environment.init_args.horizon=6", "`model.init_args.environment.init_args.horizon` must"),
        ("trajectories=3", "`model.init_args.trajectories` must be 2"),
    ],
)
def test_settings_of_training_may_not(cheetah, refused, flag, said) -> None:
    end = refused("test", f"--ckpt_path={cheetah}", f"--model.{flag}", *QUIET)
    assert end.message.startswith(f"error: {said}")
    assert "environment.init_args.threads" in end.message  # is free, it says


# -- made in Python ----------------------------------------------------------------------------


@pytest.fixture
def from_python(tmp_path) -> Path:
    """A checkpoint that holds neither policy nor environment."""
    model = MetaPolicy(
        GaussianMLP(2, 2, (8,)), Point(horizon=5), trajectories=2, eval_inner_steps=1
    )
    trainer = Trainer(**BRIEF, logger=False, enable_checkpointing=False)
    trainer.fit(model, RLTasks(**TASKS))
    trainer.save_checkpoint(tmp_path / "python.ckpt")
    return tmp_path / "python.ckpt"


def config_with(**parts: object) -> str:
    model = {"class_path": "lightning_maml.rl.MetaPolicy", "init_args": parts}
    data = {"class_path": "datamodules.RLTasks", "init_args": TASKS}
    return f"--config={write(Path('model.yaml'), model=model, data=data)}"


def test_policy_and_environment_are_those_of_the_config(from_python, tmp_path, refused) -> None:
    given = config_with(policy=POLICY, environment=POINT)
    train.main(["test", given, f"--ckpt_path={from_python}", *QUIET])
    result = result_of(tmp_path)
    model = MetaPolicy(
        GaussianMLP(2, 2, (8,)), Point(horizon=5), trajectories=2, eval_inner_steps=1
    )
    want = mean_of(from_python, model, RLTasks(**TASKS))
    assert result["mean"] == pytest.approx(want, rel=1e-4)
    end = refused("test", given, f"--ckpt_path={from_python}", "--model.inner_lr=0.5", *QUIET)
    assert end.message.startswith("error: `model.init_args.inner_lr` must be 0.1 as in the check")


def test_without_a_config_it_says_how_to_give_them(from_python, refused) -> None:
    end = refused("test", f"--ckpt_path={from_python}", *QUIET)
    assert end == (
        2, f"error: `--ckpt_path`: {from_python} was made in Python and does not hold its policy "
        "and environment. Give `--config` with the policy and environment, or use "
        "`MetaPolicy.load_from_checkpoint(path, policy=..., environment=...)`.",
    )  # fmt: skip
