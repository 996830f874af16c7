"""Ant with a goal velocity or direction (Sec. 5.3, App. A.2), as the authors' code has it.

One action is one RK4 step of 0.02 s: H = 200 is 4 s. The costs of control and contact and the 0.05
are the code's; the paper's text does not have them.
"""

from typing import Any

import numpy as np

from lightning_maml.rl.environment import Flags, Floats, State, Transition, finite_rows
from lightning_maml.rl.envs.extra import rl_extra
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

with rl_extra():
    import mujoco

NQ, NV, NU, BODIES = 15, 14, 8, 14
PHYSICS, CONTACTS = 1 + NQ + NV, 6 * BODIES
LOWEST, HIGHEST = 0.2, 1.0
INITIAL = np.array([0, 0, 0.55, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1], dtype=np.float64)
"""`init_qpos` of the model file: standing (m, quaternion, rad)."""


class Ant(Robot):
    """A robot with four legs.

    Observation (125): positions, velocities, contact forces and torques on each body (MuJoCo's
    `cfrc_ext`, clipped to +-1), the torso's rotation matrix, centre of mass (m, rad, s, N).
    Action (8): torques, +-1 are +-150 N m. Reward: ``1 - |v - g|``, or ``g v`` for a direction,
    minus ``0.005 sum a^2`` and ``0.0005 sum contact^2``, plus 0.05, with v the x velocity (m/s) of
    the centre of mass after the step. Start: N(0, 0.01) around the initial pose, N(0, 0.1) on
    velocities. The episode ends where the torso's height leaves [0.2, 1.0] m.

    Args:
        task: "velocity" (tasks are velocities >= 0; the paper draws from [0, 3]) or "direction"
            (-1 or 1).
        task_in_observation: append the task to the observation, for the oracle.
        horizon: H.
        threads: for the physics; none for one per core.

    Raises:
        ValueError: naming the argument.
    """

    action_size, start_size, seen_size = NU, NQ + NV, 125

    def __init__(
        self,
        task: Task,
        task_in_observation: bool = False,
        horizon: int = 200,
        threads: int | None = None,
    ) -> None:
        self._set(task, task_in_observation, horizon, threads)
        self._simulator = Simulator(load_model("ant.xml", _as_the_authors), threads)
        self._sensing = Simulator(load_model("ant.xml", _with_sensors), threads)

    def start(self, tasks: Floats, noise: Floats) -> tuple[State, Floats]:
        """Near the initial pose, nearly at rest."""
        physics = start_physics(INITIAL, NV, noise)
        physics[:, 4:8] /= np.sqrt((physics[:, 4:8] ** 2).sum(axis=-1, keepdims=True))
        sensed, _, _ = self._sense(physics, np.zeros((len(physics), NU)))
        state = np.hstack([physics, sensed])
        return state, self._observation(state, tasks)

    def step(self, state: Floats, actions: Floats, tasks: Floats) -> Transition:
        """One physics step. Broken episodes stay where they were, with reward 0."""
        controls, broken = checked_actions(actions, (len(state), NU))
        before = state[:, :PHYSICS]
        physics, _ = self._simulator.step(before, controls)
        broken |= ~went_on(before, physics)
        if broken.any():
            physics[broken] = np.nan_to_num(before[broken])
        sensed, speed, sensible = self._sense(physics, controls)
        broken |= ~sensible
        after = np.hstack([physics, sensed])
        reward = progress(self.task, speed, tasks[:, 0]) + (1.0 if self.task == "velocity" else 0.0)
        reward -= 0.005 * (controls**2).sum(axis=-1)
        reward -= 0.0005 * (sensed[:, :CONTACTS] ** 2).sum(axis=-1)
        reward += 0.05
        if broken.any():
            after[broken], reward[broken] = np.nan_to_num(state[broken]), 0.0
        height = after[:, 3]
        ended = ~broken & ((height < LOWEST) | (height > HIGHEST))
        return Transition(after, self._observation(after, tasks), reward, ended, broken)

    def _sense(self, physics: Floats, controls: Floats) -> tuple[Floats, Floats, Flags]:
        """What must be computed from the physics: the rest of the observation, ``[n, 96]``, the
        x velocity ``[n]``, and where it could be computed.
        """
        moved, sensors = self._sensing.step(physics, controls)
        contacts = sensors[:, :117].reshape(-1, BODIES - 1, 9)
        centre, velocity, axes = sensors[:, 117:120], sensors[:, 120], sensors[:, 123:]
        force, torque = contacts[..., :3], contacts[..., 3:6]
        arm = contacts[..., 6:] - centre[:, None]
        # The sensors tell what a body does to the ground; that on the world itself stays 0.
        external = np.zeros((len(physics), BODIES, 6))
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):  # the cross product of arm and force
            turning = arm[..., j] * force[..., k] - arm[..., k] * force[..., j]
            external[:, 1:, i] = -torque[..., i] - turning
        external[:, 1:, 3:] = -force
        rotation = axes.reshape(-1, 3, 3).swapaxes(1, 2).reshape(-1, 9)
        clipped = external.clip(-1.0, 1.0, out=external).reshape(-1, CONTACTS)
        sensed = np.hstack([clipped, rotation, centre])
        return sensed, velocity, went_on(physics, moved) & finite_rows(sensed)


def _as_the_authors(spec: Any) -> None:
    """gymnasium's motors, +-1 at gear 150, give the same torques as the authors', +-150 at gear 1;
    its contacts are harder by default.
    """
    spec.option.timestep = 0.02
    for geom in spec.geoms:
        geom.solimp[:3] = 0.8, 0.8, 0.01


def _with_sensors(spec: Any) -> None:
    """For what `cfrc_ext` and the centre of mass are after a step: a rollout's sensors are those
    before its step, so we take another, whose outcome is not used and whose integrator is cheap.

    Per body the sum of its contacts: force (3), torque (3) about a place (3).
    """
    _as_the_authors(spec)
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_EULER
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_EULERDAMP
    kind, what = mujoco.mjtSensor, mujoco.mjtConDataField
    fields = [what.mjCONDATA_FORCE, what.mjCONDATA_TORQUE, what.mjCONDATA_POS]
    net_force = 3
    contact = [sum(1 << int(field) for field in fields), net_force, 1]
    for number, body in enumerate(spec.bodies[1:]):
        body.name = body.name or f"body_{number}"
        spec.add_sensor(
            type=kind.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_BODY,
            objname=body.name,
            intprm=contact,
        )
    torso = {"objtype": mujoco.mjtObj.mjOBJ_BODY, "objname": "torso"}
    spec.add_sensor(type=kind.mjSENS_SUBTREECOM, **torso)
    spec.add_sensor(type=kind.mjSENS_SUBTREELINVEL, **torso)
    for axis in (kind.mjSENS_FRAMEXAXIS, kind.mjSENS_FRAMEYAXIS, kind.mjSENS_FRAMEZAXIS):
        spec.add_sensor(type=axis, **{**torso, "objtype": mujoco.mjtObj.mjOBJ_XBODY})
