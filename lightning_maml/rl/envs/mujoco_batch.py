"""Many MuJoCo episodes of one model, stepped together: one `mujoco.rollout` call per step.

Shapes: ``n`` episodes; ``physics [n, 1 + nq + nv]`` is MuJoCo's full physics state (clock in s,
positions, velocities).
"""

import os
from collections.abc import Callable, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from lightning_maml.rl.environment import Environment, Flags, Floats, State, finite_rows
from lightning_maml.rl.envs.extra import rl_extra
from lightning_maml.rl.envs.quiet import without_warnings
from lightning_maml.rl.turn import given_up

with rl_extra():
    import gymnasium
    import mujoco
    from mujoco.rollout import Rollout

Task = Literal["velocity", "direction"]
START_CLOCK = 1.0
"""An episode's clock starts here (s). Nothing depends on it, but MuJoCo sets it to 0 where it meets
an instability and starts over by itself, so that a clock that goes back tells."""


def load_model(file: str, edit: Callable[[Any], None]) -> Any:
    """A model of those that gymnasium ships, changed by `edit`, which is given its `MjSpec`."""
    assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    spec = mujoco.MjSpec.from_file(str(assets / file))
    edit(spec)
    # One robot is one island; MuJoCo 3.3.6 and later would look for more, a twentieth of a step.
    spec.option.disableflags |= int(getattr(mujoco.mjtDisableBit, "mjDSBL_ISLAND", 0))
    return spec.compile()


def check_arguments(task: str, horizon: int, threads: int | None) -> None:
    """Raise ValueError, naming the argument."""
    if task not in get_args(Task):
        raise ValueError(f"`task` must be one of {list(get_args(Task))}, got {task!r}.")
    if horizon < 1:
        raise ValueError(f"`horizon` must be >= 1, got {horizon}.")
    if threads is not None and threads < 1:
        raise ValueError(f"`threads` must be >= 1, or none for one per core, got {threads}.")


def check_tasks(task: Task, tasks: Floats) -> None:
    """Raise ValueError unless `tasks` ``[n, 1]`` are velocities >= 0 (m/s), or directions +-1."""
    if task == "velocity":
        possible, right = np.isfinite(tasks) & (tasks >= 0), "velocities, finite numbers >= 0"
    else:
        possible, right = np.abs(tasks) == 1, "directions, each -1 or 1"
    if tasks.shape[-1] != 1 or not possible.all():
        raise ValueError(f"`tasks` must be {right}, one per row, got {tasks.tolist()}.")


def progress(task: Task, velocity: Floats, tasks: Floats) -> Floats:
    """``-|v - g|`` or, for directions, ``g v``; all ``[n]``, m/s."""
    return tasks * velocity if task == "direction" else -np.abs(velocity - tasks)


def checked_actions(actions: Floats, shape: tuple[int, int]) -> tuple[Floats, Flags]:
    """Actions clipped to +-1, and in which rows some are not finite: these become 0.

    Raises:
        ValueError: if they are not of this shape.
    """
    if actions.shape != shape:
        raise ValueError(f"`actions` must have shape {shape}, got {actions.shape}.")
    lost = ~finite_rows(actions)
    clipped = np.clip(actions.astype(np.float64), -1.0, 1.0)
    if lost.any():
        clipped[lost] = 0.0
    return clipped, lost


def start_physics(positions: Floats, nv: int, noise: Floats) -> Floats:
    """N(0, 0.01) around the initial positions ``[nq]``, N(0, 0.1) on velocities; noise ``[n, nq +
    nv]``.
    """
    noise, nq = noise.astype(np.float64), len(positions)
    clock = np.full((len(noise), 1), START_CLOCK)
    return np.hstack([clock, positions + 0.01 * noise[:, :nq], 0.1 * noise[:, nq : nq + nv]])


def went_on(before: Floats, after: Floats) -> Flags:
    """Where MuJoCo stepped without an instability (bad position, velocity or acceleration)."""
    going: Flags = finite_rows(after) & (after[:, 0] > before[:, 0])
    return going


class Simulator:
    """Steps episodes of a model. Keeps threads and scratch memory, nothing of the episodes.

    Each step's constraint solver starts cold, so that a step depends on its arguments alone.

    Args:
        model: an `MjModel`.
        threads: None for one per core that this process may use.
    """

    def __init__(self, model: Any, threads: int | None = None) -> None:
        self.model, self.threads = model, threads or _cores()
        self._pool = Rollout(nthread=self.threads if self.threads > 1 else 0)
        self._scratch = [mujoco.MjData(model) for _ in range(self.threads)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles get threads of their own."""
        return Simulator, (self.model, self.threads)

    def step(self, physics: Floats, controls: Floats) -> tuple[Floats, Floats]:
        """Physics after one step under controls ``[n, nu]``, and the sensors before it."""
        n = len(physics)
        after = np.empty((n, 1, physics.shape[1]))
        sensors = np.empty((n, 1, self.model.nsensordata))
        with without_warnings(), given_up():
            self._pool.rollout(
                [self.model] * n,
                self._scratch,
                np.ascontiguousarray(physics),
                controls[:, None],
                nstep=1,
                skip_checks=True,
                state=after,
                sensordata=sensors,
            )
        return after[:, 0], sensors[:, 0]


class Robot(Environment):
    """What half-cheetah and ant share; a state is ``[n, ...]`` and begins with the physics.

    Attributes:
        seen_size: numbers of an observation without the task.
        unseen: numbers at the beginning of a state that are not observed.
    """

    task_size, seen_size, unseen = 1, 0, 1  # unseen: the clock
    gives_way = True
    task: Task
    _simulator: Simulator
    _halves: tuple[Environment, Environment] | None = None

    def _set(
        self, task: Task, task_in_observation: bool, horizon: int, threads: int | None
    ) -> None:
        check_arguments(task, horizon, threads)
        self.task, self.task_in_observation, self.horizon = task, task_in_observation, horizon
        self.observation_size = self.seen_size + task_in_observation

    def check_tasks(self, tasks: Floats) -> None:
        """Velocities >= 0, or directions -1 or 1."""
        check_tasks(self.task, tasks)

    def restart(
        self, state: Floats, which: Flags, tasks: Floats, noise: Floats
    ) -> tuple[State, Floats]:
        """New episodes in `which`."""
        state = state.copy()
        state[which] = self.start(tasks[which], noise[which])[0]
        return state, self._observation(state, tasks)

    def select(self, state: Floats, which: Flags) -> State:
        """Those rows."""
        return state[which]

    def side_by_side(self) -> Sequence[Environment]:
        """Two with half of the threads each, or this one twice if it has one thread."""
        if self._simulator.threads == 1:
            return self, self
        if self._halves is None:
            self._halves = self._half(), self._half()
        return self._halves

    def _half(self) -> Self:
        """A copy whose simulators have half of the threads, rounded up."""
        half = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Simulator):
                setattr(half, name, Simulator(value.model, -(-value.threads // 2)))
        return half

    def frame(self, state: Floats, number: int, width: int = 480, height: int = 480) -> Any:
        """Episode `number` as an image, uint8 ``[height, width, 3]``; see `render.frame`."""
        from lightning_maml.rl.envs.render import frame

        model = self._simulator.model
        return frame(model, state[number, : 1 + model.nq + model.nv], width, height)

    def _observation(self, state: Floats, tasks: Floats) -> Floats:
        """``[n, observation_size]``."""
        seen = state[:, self.unseen :]
        return np.hstack([seen, tasks]) if self.task_in_observation else seen.copy()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
