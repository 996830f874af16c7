"""Videos of a run: which frames, where they go, and that the run does not notice."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch import Trainer, seed_everything
from PIL import Image

from datamodules import RLTasks
from lightning_maml.rl import GaussianMLP, MetaPolicy
from lightning_maml.rl.environment import DrawingError
from lightning_maml.rl.envs import Point
from lightning_maml.rl.videos import HEIGHT, WIDTH, videos
from lightning_maml.run.wandb_file import history
from lightning_maml.run.wandb_logging import WandbLogger

ROOT = Path(__file__).parents[2]


class Filmed(Point):
    """A user's own environment. Its frames are as bright as the point's x, in mm, mod 200."""

    def __init__(self, horizon, near=0.01):
        super().__init__(horizon=horizon)
        self.near = near

    def step(self, state, actions, tasks):
        moved = super().step(state, actions, tasks)
        return moved._replace(ended=(np.abs(moved.state - tasks) < self.near).all(axis=-1))

    def frame(self, state, number, width, height):
        brightness = round(1000 * state[number, 0]) % 200
        return np.full((height, width, 3), brightness, dtype=np.uint8)


class Blind(Point):
    """Cannot draw on this machine."""

    def frame(self, state, number, width, height):
        raise DrawingError("No way.")


def learner(environment, sizes=(2, 2), **settings):
    seed_everything(0, verbose=False)
    options = {"trajectories": 3, "eval_inner_steps": 2, "render": True} | settings
    return MetaPolicy(GaussianMLP(*sizes, (8, 8)), environment, **options)


def data():
    return RLTasks(
        low=[-0.5, -0.5], high=[0.5, 0.5], meta_batch_size=3, val_tasks=4, train_batches_per_epoch=1
    )


def fitted(model, tmp_path, logger=False, tasks=None, **settings):
    Trainer(
        accelerator="cpu", max_steps=2, max_epochs=-1, default_root_dir=tmp_path, logger=logger,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        log_every_n_steps=1, **({"num_sanity_val_steps": 1} | settings),
    ).fit(model, tasks or data())  # fmt: skip
    return model


def test_frames_are_those_of_evaluation_until_the_episode_ends() -> None:
    """From the actions of evaluation's own rollouts; the side that ends first waits."""
    model = learner(Filmed(horizon=120, near=0.1))  # so every third step is drawn
    batch = data().samplers["val"](0, 4)
    batch.task[0] = torch.tensor([0.2, -0.2])
    rollouts = [acted.paths for acted in model._act(batch, 2, 3, pooled=False)]
    found = videos(model, batch)
    assert [video.task for video in found] == [0, 1]
    lengths = set()
    for video in found:
        sides = []
        for paths in (rollouts[0], rollouts[-1]):
            length = int(paths.last[video.task, 0].nonzero()[0]) + 1
            lengths.add(length)
            moves = (0.1 * paths.actions[video.task, 0, :length, 0].clamp(-1, 1)).double()
            x = np.concatenate([[0.0], moves.cumsum(dim=0)])[::3]
            sides.append(np.round(1000 * x) % 200)
            assert f"{paths.rewards[video.task, 0, :length].sum():.1f}" in video.caption
        longest = max(len(side) for side in sides)
        assert len(video.frames) == longest <= 41
        assert video.frames[0].shape == (HEIGHT, 2 * WIDTH, 3)
        for i, side in enumerate(sides):
            pixels = [frame[HEIGHT // 2, i * WIDTH + 5, 0] for frame in video.frames]
            expected = [*side, *[side[-1]] * (longest - len(side))]
            np.testing.assert_array_equal(pixels, expected)
    assert len(lengths) > 2


def test_shown_are_tasks_that_differ() -> None:
    """Of two directions each once, whatever the order of the validation tasks."""
    batch = data().samplers["val"](0, 4)
    batch.task[:] = torch.tensor([[0.5, 0], [0.5, 0], [-0.5, 0], [0.5, 0]])
    assert [v.task for v in videos(learner(Filmed(horizon=4)), batch)] == [0, 2]
    batch.task[:] = batch.task[0].clone()
    assert [v.task for v in videos(learner(Filmed(horizon=4)), batch)] == [0]
    (alone,) = videos(learner(Filmed(horizon=4), eval_inner_steps=0), batch)
    assert alone.frames[0].shape == (HEIGHT, WIDTH, 3)


def test_files_and_wandb_have_them_and_the_weights_do_not_change(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = WandbLogger(name="film", save_dir=tmp_path)
    model = fitted(learner(Filmed(horizon=10)), tmp_path, logger)
    logger.experiment.finish()
    wandb.teardown()  # else runs that later tests start would be of its service
    paths = sorted(tmp_path.rglob("videos/step_*.gif"))
    names = ["step_1_task_0.gif", "step_1_task_1.gif", "step_2_task_0.gif", "step_2_task_1.gif"]
    assert [path.name for path in paths] == names  # none of the sanity check
    for path in paths:
        with Image.open(path) as image:
            assert (image.n_frames, image.size) == (11, (2 * WIDTH, HEIGHT))
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    for row in history(folder):
        assert row["val/videos/count"] == 2
        assert row["val/videos/captions"][0].startswith("task -0.0708, 0.144, before adaptation: ")
    logged = {path.read_bytes() for path in folder.rglob("*.gif")}
    assert logged == {path.read_bytes() for path in paths}

    plain = fitted(learner(Filmed(horizon=10), render=False), tmp_path / "plain")
    assert not list((tmp_path / "plain").rglob("*.gif"))
    assert_same(plain, model)


def assert_same(one, other):
    for name, value in one.policy.state_dict().items():
        assert torch.equal(value, other.policy.state_dict()[name])
    assert torch.equal(one.curve.collected()[0].metric, other.curve.collected()[0].metric)


def test_a_machine_that_cannot_draw_says_so_once(tmp_path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = fitted(learner(Blind(horizon=10)), tmp_path, num_sanity_val_steps=0)
    said = [str(one.message) for one in caught if "render" in str(one.message)]
    assert said == ["`render` is true, but there will be no videos. No way."]
    assert model.global_step == 2
    assert not list(tmp_path.rglob("*.gif"))


def test_an_environment_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`render` must be false .* as Point is, got True"):
        learner(Point())
    learner(Point(), render=False)


@pytest.fixture(scope="module")
def opengl() -> None:
    pytest.importorskip("mujoco", reason="needs the extra `rl`")
    pytest.importorskip("gymnasium", reason="needs the extra `rl`")
    from lightning_maml.rl.envs.render import _context

    try:
        _context()
    except DrawingError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("robot", "sizes"),
    [
        ("HalfCheetah", (20, 6)),
        ("Ant", (125, 8)),
    ],
)
def test_robots_are_filmed_and_their_weights_do_not_change(opengl, robot, sizes, tmp_path) -> None:
    from lightning_maml.rl import envs

    kind = getattr(envs, robot)
    tasks = RLTasks(choices=[[-1], [1]], meta_batch_size=2, val_tasks=6, train_batches_per_epoch=1)
    filmed, plain = (
        fitted(
            learner(kind("direction", horizon=8), sizes, render=render),
            tmp_path / str(render),
            tasks=tasks,
        )
        for render in (True, False)
    )
    assert_same(filmed, plain)
    found = sorted((tmp_path / "True").rglob("*.gif"))
    assert len(found) == 4  # two directions, twice
    with Image.open(found[0]) as image:
        frames = []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")).astype(float)[20:])
    assert len(frames) == 9
    before, after = (frames[-1][:, side] for side in (slice(WIDTH), slice(WIDTH, None)))
    assert np.abs(before - after).mean() > 0.5  # other noise, so another episode
    assert np.abs(frames[-1] - frames[0])[:, :WIDTH].mean() > 0.5
    assert frames[0][:20].std() < 30 < frames[0][60:].std()  # sky and floor


@pytest.mark.parametrize("way", ["egl", "osmesa"])
def test_the_process_ends_without_a_word(opengl, way) -> None:
    code = """
import numpy as np
from lightning_maml.rl.envs import HalfCheetah
robot = HalfCheetah("velocity", threads=1)
state, _ = robot.start(np.ones((1, 1)), np.zeros((1, robot.start_size)))
print(robot.frame(state, 0, width=32, height=24).shape)
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**environment, "MUJOCO_GL": way},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if "DrawingError" in done.stderr or "import mujoco" in done.stderr:
        pytest.skip(f"no {way} here: {done.stderr.splitlines()[-1]}")
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "(24, 32, 3)\n")
