"""Half-cheetah with a goal velocity or direction (Sec. 5.3, App. A.2), as the authors' code has it.

One action is one physics step of 0.01 s: H = 200 is 2 s (gymnasium's own takes 5 steps an action).
"""

from typing import Any

import numpy as np
import torch

from lightning_maml.rl.environment import Floats, State, Transition
from lightning_maml.rl.envs.mujoco_batch import (
    Robot,
    Simulator,
    Task,
    checked_actions,
    load_model,
    progress,
    start_physics,
    went_on,
)

NQ, NV, NU = 9, 9, 6
PHYSICS = 1 + NQ + NV


class HalfCheetah(Robot):
    """A planar robot with two legs; it never falls in the sense of an end.

    Observation (20): positions but for the root's x, velocities, centre of mass (m, rad, s).
    Action (6): torques, +-1 are the model's bounds. Reward: ``-|v - g|``, or ``g v`` for a
    direction, minus ``0.05 sum a^2``, with v the x velocity (m/s) of the centre of mass after the
    step. Start: N(0, 0.01) on positions, N(0, 0.1) on velocities.

    Args:
        task: "velocity" (tasks are velocities >= 0; the paper draws from [0, 2]) or "direction"
            (-1 or 1).
        task_in_observation: append the task to the observation, for the oracle.
        horizon: H.
        threads: for the physics; none for one per core.

    Raises:
        ValueError: naming the argument.
    """

    action_size, start_size, seen_size = NU, NQ + NV, 20
    unseen = 2  # the clock and the root's x

    def __init__(
        self,
        task: Task,
        task_in_observation: bool = False,
        horizon: int = 200,
        threads: int | None = None,
    ) -> None:
        self._set(task, task_in_observation, horizon, threads)
        self._simulator = Simulator(load_model("half_cheetah.xml", _scale_mass), threads)
        self._mass = _PlanarMass(self._simulator.model)

    def start(self, tasks: Floats, noise: Floats) -> tuple[State, Floats]:
        """Near the model's initial pose, nearly at rest."""
        physics = start_physics(self._simulator.model.qpos0, NV, noise)
        state = np.hstack([physics, self._mass.position_and_speed(physics)[0]])
        return state, self._observation(state, tasks)

    def step(self, state: Floats, actions: Floats, tasks: Floats) -> Transition:
        """One physics step. Broken episodes stay where they were, with reward 0."""
        controls, broken = checked_actions(actions, (len(state), NU))
        before = state[:, :PHYSICS]
        physics, _ = self._simulator.step(before, controls)
        broken |= ~went_on(before, physics)
        if broken.any():
            physics[broken] = np.nan_to_num(before[broken])
        position, speed = self._mass.position_and_speed(physics)
        reward = progress(self.task, speed, tasks[:, 0]) - 0.05 * (controls**2).sum(axis=-1)
        state = np.hstack([physics, position])
        ended = np.zeros(len(state), dtype=bool)
        observation = self._observation(state, tasks)
        return Transition(state, observation, np.where(broken, 0.0, reward), ended, broken)


def _scale_mass(spec: Any) -> None:
    """Do what the file's `settotalmass` says: MuJoCo 4 deprecates it, with a warning each time."""
    total, spec.compiler.settotalmass = spec.compiler.settotalmass, -1.0
    unscaled = spec.compile().body_subtreemass[0]
    for geom in spec.geoms:
        geom.density *= total / unscaled


class _PlanarMass:
    """Centre of mass of a robot in the x-z plane, whose bodies turn about y only.

    It is the root plus a sum over bodies of a fixed arm, turned by the body's angle: the body's
    share of the mass at its own centre, and all its descendants' at the joints that carry them.
    """

    def __init__(self, model: Any) -> None:
        arms = model.body_mass[:, None] * model.body_ipos
        for body in range(2, model.nbody):
            arms[model.body_parentid[body]] += model.body_subtreemass[body] * model.body_pos[body]
        self.x, _, self.z = (arms[1:] / model.body_subtreemass[1]).T[..., None]
        self.height = model.body_pos[1, 2]
        self.parents = model.body_parentid[1:] - 1

    def position_and_speed(self, physics: Floats) -> tuple[Floats, Floats]:
        """Position ``[n, 3]`` (m) and x velocity ``[n]`` (m/s)."""
        # Bodies first: rows of n numbers, since numpy is slow at rows of seven.
        angle, turning = physics.T[3 : NQ + 1].copy(), physics.T[NQ + 3 :].copy()
        for body, parent in enumerate(self.parents[1:], start=1):
            angle[body] += angle[parent]
            turning[body] += turning[parent]
        turned = torch.from_numpy(angle)  # torch's sine takes a third of numpy's time
        sine, cosine = torch.sin(turned).numpy(), torch.cos(turned).numpy()
        down = self.z * cosine - self.x * sine
        position = np.zeros((len(physics), 3))
        # Sums over rows, not products with BLAS: these depend on what else is there.
        position[:, 0] = physics[:, 1] + (self.x * cosine + self.z * sine).sum(axis=0)
        position[:, 2] = self.height + physics[:, 2] + down.sum(axis=0)
        return position, physics[:, NQ + 1] + (turning * down).sum(axis=0)
