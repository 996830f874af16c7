"""Figures of trajectories: the points drawn, where they go, and that the run does not notice."""

import json

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from datamodules import RLTasks
from lightning_maml.episode import TaskBatch
from lightning_maml.rl import GaussianMLP, MetaPolicy
from lightning_maml.rl.envs import Point
from lightning_maml.rl.noise import EpisodeNoise
from lightning_maml.rl.trajectory_figure import tracks, trajectories


class Lost(Point):
    """Its positions are not in a plane."""

    def positions(self, state):
        return state[:, :1]


def learner(environment=None, **settings):
    seed_everything(0, verbose=False)
    options = {"trajectories": 5, "eval_inner_steps": 2, "later_inner_lr": 0.05} | settings
    return MetaPolicy(GaussianMLP(2, 2, (8, 8)), environment or Point(horizon=20), **options)


def data():
    return RLTasks(
        low=[-0.5, -0.5], high=[0.5, 0.5], meta_batch_size=4, val_tasks=6, train_batches_per_epoch=1
    )


def batch(tasks=5):
    return data().samplers["val"](0, tasks)


def noted(model, given):
    watched = model.watch(given, lambda _, state: state.copy())
    return [tracks(one) for one in watched]


def test_tracks_before_adaptation_are_those_of_the_seeds() -> None:
    """One episode at a time, from the policy and the noise of its key alone."""
    model, given = learner(), batch(2)
    before, after = noted(model, given)
    source = EpisodeNoise(given.key.numpy(), 0, 0, 2, 20)
    for task in range(2):
        for trajectory in range(2):
            position, (_, noise) = np.zeros(2), source.draw(task, trajectory)
            expected = [position]
            for row in noise:
                with torch.no_grad():
                    output = model.policy(torch.tensor(position[None], dtype=torch.float32))[0]
                mean, log_std = output.numpy().reshape(2, 2)
                position = position + 0.1 * np.clip(mean + np.exp(log_std) * row, -1, 1)
                expected.append(position)
            np.testing.assert_allclose(before[task][trajectory], expected, atol=1e-5)
            assert not np.allclose(after[task][trajectory], expected, atol=1e-2)


def test_tracks_after_adaptation_are_those_of_evaluation() -> None:
    """They end where the actions of evaluation's own rollouts lead, and where these end."""
    model, given = learner(Point(horizon=60)), batch(5)
    given.task[0] = 0.01  # the first step may end it
    *_, last = model._act(given, 2, 5, pooled=False)
    _, after = noted(model, given)
    moves = (0.1 * last.paths.actions.clamp(-1, 1)).double()
    lengths = set()
    for task in range(5):
        for trajectory in range(2):
            length = int(last.paths.last[task, trajectory].nonzero()[0]) + 1
            lengths.add(length)
            path = moves[task, trajectory, :length].cumsum(dim=0)
            np.testing.assert_allclose(after[task][trajectory][1:], path, atol=1e-12)
    assert len(lengths) > 1  # some came to their goal


def darkness(figure, rows, columns):
    """Ink in each panel of an even grid, below the legend."""
    height, width = figure.shape[0] - 40, figure.shape[1]
    panels = [
        (255.0 - figure[40:])[i * height // rows : (i + 1) * height // rows,
                              j * width // columns : (j + 1) * width // columns].mean()
        for i in range(rows) for j in range(columns)
    ]  # fmt: skip
    return np.array(panels)


def test_each_task_has_a_panel_and_what_adaptation_changes_shows() -> None:
    model = learner()
    (picture,) = model.pictures(batch(5))
    assert picture.dtype == np.uint8
    assert (darkness(picture, 2, 2) > 3).all()
    (alone,) = model.pictures(batch(1))
    assert alone.shape[1] < 0.6 * picture.shape[1]
    goals, rollouts = batch(4).task.numpy(), noted(model, batch(4))
    same = trajectories(goals, rollouts)
    np.testing.assert_array_equal(same, picture)
    rollouts[1][2] = [track + 0.02 for track in rollouts[1][2]]
    moved = (trajectories(goals, rollouts) != same).any(axis=-1)
    assert darkness(255 - 255 * moved[..., None], 2, 2).argmax() == 2
    assert moved[360:, :340].sum() > 100 > moved[360:, 380:].sum()


def test_without_inner_steps_there_is_one_rollout() -> None:
    model = learner(eval_inner_steps=0)
    assert len(noted(model, batch(2))) == 1
    (picture,) = model.pictures(batch(2))
    orange = (picture[..., 0] > 220) & (picture[..., 2] < 80)
    assert not orange.any()
    (adapted,) = learner().pictures(batch(2))
    assert ((adapted[..., 0] > 220) & (adapted[..., 2] < 80)).any()


def test_an_environment_says_itself_whether_it_can_be_drawn(monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"`positions` must return \[n, 2\], here \[10, 2\]"):
        learner(Lost(horizon=3)).pictures(batch(2))
    monkeypatch.delattr(Point, "positions")
    assert learner().pictures(batch(2)) == []


def fitted(tmp_path, logger):
    model = learner()
    Trainer(
        accelerator="cpu", max_steps=2, max_epochs=-1, default_root_dir=tmp_path, logger=logger,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        log_every_n_steps=1, num_sanity_val_steps=0,
    ).fit(model, data())  # fmt: skip
    return model


def test_figures_reach_tensorboard_and_change_nothing(tmp_path, monkeypatch) -> None:
    drawn: list[TaskBatch] = []
    pictures = MetaPolicy.pictures
    monkeypatch.setattr(
        MetaPolicy, "pictures", lambda self, given: drawn.append(given) or pictures(self, given)
    )
    plain = fitted(tmp_path, False)
    assert not drawn
    logger = TensorBoardLogger(tmp_path)
    model = fitted(tmp_path, logger)
    assert [one.key[:, 2].tolist() for one in drawn] == [[0, 1, 2, 3, 4, 5]] * 2
    logger.experiment.flush()
    (events,) = tmp_path.rglob("events.out*")
    content = events.read_bytes()
    assert b"val/tasks/0" in content
    assert content.count(b"\x89PNG") == 4  # curve and tasks, twice
    for name, value in plain.policy.state_dict().items():
        assert torch.equal(value, model.policy.state_dict()[name])
    assert torch.equal(plain.curve.collected()[0].metric, model.curve.collected()[0].metric)


def test_a_test_keeps_the_tracks_of_the_first_tasks(tmp_path) -> None:
    """Their rewards, minus the distances to the goal, give the returns of these episodes."""
    model = learner(Point(horizon=20), trajectories=2, eval_inner_steps=2)
    settings = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    Trainer(default_root_dir=tmp_path, **settings).test(model, data(), verbose=False)
    content = json.loads((tmp_path / "test_result_fits.json").read_text(encoding="utf-8"))
    given = data().samplers["test"](0, 4)
    first, _, last = model._act(given, 2, 2, pooled=False)
    assert content["steps"] == [0, 2]
    for number, task in enumerate(content["tasks"]):
        np.testing.assert_allclose(task["goal"], given.task[number], atol=1e-6)
        for step, acted in (("0", first), ("2", last)):
            rewards = acted.paths.rewards[number, :, :20]
            for track, expected in zip(task["tracks"][step], rewards, strict=True):
                distances = np.linalg.norm(np.array(track[1:]) - task["goal"], axis=1)
                np.testing.assert_allclose(-distances, expected[: len(distances)], atol=2e-4)
    assert len(content["tasks"]) == 4
