"""2D navigation (Sec. 5.3, App. A.2): a point moves to a goal that it cannot see."""

from typing import Literal, get_args

import numpy as np

from lightning_maml.argument_types import check_types
from lightning_maml.rl.environment import Environment, Flags, Floats, Transition

SPEED = 0.1
NEAR = 0.01
Reward = Literal["distance", "squared_distance"]


class Point(Environment):
    """Moves by the action, clipped to +-0.1 per axis; starts at the origin.

    The episode ends where both offsets from the goal are below 0.01.

    Args:
        reward: "distance" (minus the distance to the goal after the step: what the paper's returns
            need) or "squared_distance" (minus its square: what the paper's text says).
        task_in_observation: append the goal to the observation, for the oracle.
        horizon: H.

    Raises:
        ValueError: naming the argument.
    """

    action_size, task_size, start_size = 2, 2, 0

    def __init__(
        self,
        reward: Reward = "distance",
        task_in_observation: bool = False,
        horizon: int = 100,
    ) -> None:
        check_types(Point.__init__, locals())
        if reward not in get_args(Reward):
            raise ValueError(f"`reward` must be one of {list(get_args(Reward))}, got {reward!r}.")
        if horizon < 1:
            raise ValueError(f"`horizon` must be >= 1, got {horizon}.")
        self.reward, self.task_in_observation, self.horizon = reward, task_in_observation, horizon
        self.observation_size = 2 + 2 * task_in_observation

    def check_tasks(self, tasks: Floats) -> None:
        """Goals are two finite numbers."""
        if tasks.shape[-1] != 2 or not np.isfinite(tasks).all():
            raise ValueError(f"`tasks` must be goals (x, y), finite numbers, got {tasks.tolist()}.")

    def start(self, tasks: Floats, noise: Floats) -> tuple[Floats, Floats]:
        """All at the origin."""
        position = np.zeros((len(tasks), 2))
        return position, self._observation(position, tasks)

    def restart(
        self, state: Floats, which: Flags, tasks: Floats, noise: Floats
    ) -> tuple[Floats, Floats]:
        """Those in `which` back to the origin."""
        position = np.where(which[:, None], 0.0, state)
        return position, self._observation(position, tasks)

    def select(self, state: Floats, which: Flags) -> Floats:
        """Their positions."""
        return state[which]

    def step(self, state: Floats, actions: Floats, tasks: Floats) -> Transition:
        """Move by ``SPEED * actions``, clipped."""
        position = state + SPEED * np.clip(actions, -1.0, 1.0)
        offset = position - tasks
        squared = (offset**2).sum(axis=-1)
        reward = -np.sqrt(squared) if self.reward == "distance" else -squared
        ended: Flags = np.all(np.abs(offset) < NEAR, axis=-1)
        broken = np.zeros(len(tasks), dtype=bool)
        return Transition(position, self._observation(position, tasks), reward, ended, broken)

    def positions(self, state: Floats) -> Floats:
        """Where each point is, for figures: ``[n, 2]``."""
        return state

    def _observation(self, position: Floats, tasks: Floats) -> Floats:
        return np.hstack([position, tasks]) if self.task_in_observation else position
