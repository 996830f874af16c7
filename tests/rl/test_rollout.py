"""Trajectories follow from the keys of their tasks alone, and early ends start anew."""

import numpy as np
import pytest
import torch

from datamodules import RLTasks
from lightning_maml.episode import TaskBatch
from lightning_maml.rl.environment import Environment, Transition
from lightning_maml.rl.envs import Point
from lightning_maml.rl.noise import EpisodeNoise
from lightning_maml.rl.rollout import sample


def batch(tasks=3, first=0):
    sampler = RLTasks(low=[-0.5, -0.5], high=[0.5, 0.5]).samplers["train"]
    return sampler(first, tasks)


def still(x):
    """Mean 0 and standard deviation 1, whatever is seen."""
    return torch.zeros(*x.shape[:-1], 4)


def test_point_moves_and_pays_as_the_paper_says() -> None:
    given = batch()
    paths = sample(Point(), still, given, 2)
    position = np.zeros(2)
    for t in range(20):
        assert np.allclose(paths.observations[1, 1, t], position, atol=1e-6)
        position = position + 0.1 * np.clip(paths.actions[1, 1, t].numpy(), -1, 1)
        distance = np.linalg.norm(position - given.task[1].numpy())
        assert paths.rewards[1, 1, t].item() == pytest.approx(-distance, abs=1e-6)
    squared = sample(Point(reward="squared_distance"), still, given, 2)
    assert squared.rewards[1, 1, 0].item() == pytest.approx(-(paths.rewards[1, 1, 0].item() ** 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_the_policy_saw_and_said_has_its_dtype(dtype) -> None:
    paths = sample(Point(horizon=4), lambda x: still(x).to(dtype), batch(2), 3)
    assert {one.dtype for one in (paths.observations, paths.actions, paths.outputs)} == {dtype}
    assert paths.rewards.dtype == torch.float64


def test_episodes_do_not_depend_on_the_batch_they_are_in() -> None:
    whole = sample(Point(), still, batch(3), 4)
    alone = sample(Point(), still, batch(1, first=2), 2)
    for name in ("observations", "actions", "rewards"):
        h = Point().horizon  # streams go on where a goal was reached by chance
        assert torch.equal(getattr(whole, name)[2, :2, :h], getattr(alone, name)[0, :, :h])
    assert not torch.equal(whole.actions[0], whole.actions[1])
    other = sample(Point(), still, batch(3), 4, inner_step=1)
    assert not torch.equal(whole.actions[0, 0, 0], other.actions[0, 0, 0])
    assert torch.equal(sample(Point(), still, batch(3), 4).rewards, whole.rewards)
    for seed, split in ((1, "train"), (0, "val")):
        others = RLTasks(low=[-0.5, -0.5], high=[0.5, 0.5], seed=seed).samplers[split](0, 3)
        different = sample(Point(), still, others, 4).actions[:, :, 0] != whole.actions[:, :, 0]
        assert different.all()
    first = whole.actions[:, :, 0].reshape(-1)  # of each task and trajectory its own
    assert len(first.unique()) == len(first)


def test_without_an_early_end_each_episode_has_as_many_steps_as_the_horizon() -> None:
    far = TaskBatch(torch.full((2, 2), 50.0), batch(2).key)
    paths = sample(Point(horizon=7), still, far, 3)
    assert paths.last.shape == (2, 3, 7)
    assert paths.valid.all()
    assert paths.last.nonzero()[:, 2].tolist() == [6] * 6


class Short(Environment):
    """Episodes of two steps; shows the noise of their start."""

    observation_size, action_size, task_size, start_size, horizon = 1, 2, 1, 1, 5

    def check_tasks(self, tasks):
        """Any."""

    def start(self, tasks, noise):
        return np.hstack([noise, 0 * noise]), noise.copy()

    def restart(self, state, which, tasks, noise):
        state = np.where(which[:, None], np.hstack([noise, 0 * noise]), state)
        return state, state[:, :1]

    def step(self, state, actions, tasks):
        state = state + np.array([0, 1])
        over = state[:, 1] == 2
        return Transition(state, state[:, :1], state[:, 0], over, np.zeros_like(over))


def test_each_episode_has_noise_of_its_own() -> None:
    """The e-th of stream s, of three, is trajectory s + 3 e; five steps are not over before six."""
    paths = sample(Short(), still, batch(2), 3, inner_step=4)
    noise = EpisodeNoise(batch(2).key.numpy(), 4, 1, 2, 5)
    starts = set()
    assert paths.valid.all()
    assert paths.valid.shape == (2, 3, 6)
    for task in range(2):
        for stream in range(3):
            for episode in range(3):
                start, actions = noise.draw(task, stream + 3 * episode)
                steps = slice(2 * episode, 2 * episode + 2)
                found = paths.actions[task, stream, steps].numpy()
                np.testing.assert_array_equal(found, actions[:2])
                np.testing.assert_array_equal(paths.observations[task, stream, steps], [start] * 2)
                starts.add(start.item())
    assert len(starts) == 2 * 3 * 3


def homing(goal):
    """Straight to the goal, without noise."""

    def policies(x):
        mean = (goal[:, None] - x) / 0.1
        return torch.cat([mean, torch.full_like(mean, -50.0)], dim=-1)

    return policies


def test_early_ends_start_anew_until_the_stream_is_as_long_as_the_horizon() -> None:
    given = TaskBatch(torch.tensor([[0.25, 0.0], [0.0, 0.5]]), batch(2).key)
    paths = sample(Point(horizon=10), homing(given.task), given, 1)
    assert paths.last[0, 0, :12].nonzero().flatten().tolist() == [2, 5, 8, 11]
    assert paths.age[0, 0, :12].tolist() == [0, 1, 2] * 4
    assert paths.valid[0, 0].sum() == 12
    assert paths.valid[1, 0].sum() == 10  # five steps each
    first = paths.rewards[0, 0, :3]
    assert first.tolist() == pytest.approx([-0.15, -0.05, 0.0], abs=1e-6)
    assert paths.returns.tolist() == pytest.approx([-0.2, -1.0], abs=1e-5)


def test_action_that_is_not_finite_breaks_the_episode_off_and_is_counted() -> None:
    def broken(x):
        output = still(x)
        output[1] = torch.nan
        return output

    paths = sample(Point(horizon=5), broken, batch(3), 2)
    assert paths.returns.isnan().tolist() == [False, True, False]
    assert paths.broken.tolist() == [0, 10, 0]  # each try of both streams
    assert torch.isfinite(paths.observations).all()
    assert torch.isfinite(paths.actions).all()
    assert torch.isfinite(paths.outputs).all()


def test_impossible_tasks_and_settings() -> None:
    with pytest.raises(ValueError, match="tasks"):
        Point().check_tasks(np.array([[np.nan, 0.0]]))
    with pytest.raises(ValueError, match="reward"):
        Point(reward="none")
    with pytest.raises(ValueError, match="horizon"):
        Point(horizon=0)
