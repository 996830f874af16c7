"""Policies as they are drawn, against the authors' numbers before any step."""

import numpy as np
import pytest
import torch

from datamodules import RLTasks
from lightning_maml.rl import GaussianMLP, MetaPolicy

envs = pytest.importorskip("lightning_maml.rl.envs")
DIRECTIONS = {"choices": [[-1.0], [1.0]]}
CASES = {  # environment, task, tasks, the authors' mean over 40 tasks of their "random" baseline
    "half-cheetah velocity": ("HalfCheetah", "velocity", {"low": [0.0], "high": [2.0]}, -254.83),
    "half-cheetah direction": ("HalfCheetah", "direction", DIRECTIONS, -35.73),
    "ant velocity": ("Ant", "velocity", {"low": [0.0], "high": [3.0]}, -78.64),
    "ant direction": ("Ant", "direction", DIRECTIONS, 3.11),
}


@pytest.mark.slow
@pytest.mark.parametrize(("robot", "task", "tasks", "authors"), CASES.values(), ids=CASES)
def test_returns_of_new_policies_are_the_authors(robot, task, tasks, authors) -> None:
    """20 networks, 40 tasks each: theirs, one network, lies within two standard deviations."""
    pytest.importorskip("mujoco", reason="needs the extra `rl`")
    environment = getattr(envs, robot)(task)
    means = []
    for seed in range(20):
        torch.manual_seed(seed)
        policy = GaussianMLP(environment.observation_size, environment.action_size)
        model = MetaPolicy(policy, environment, trajectories=5)
        batch = RLTasks(**tasks, seed=seed).samplers["test"](0, 40)  # noise of its own, too
        means.append(model.evaluate(batch, inner_steps=0).metric.mean().item())
    mean, spread = np.mean(means), np.std(means, ddof=1)
    print(f"{robot} {task}: {mean:.1f} +- {spread:.1f}, authors {authors}")
    assert abs(mean - authors) < min(2 * spread, 20)
