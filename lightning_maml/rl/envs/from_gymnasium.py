"""Any `gymnasium.vector` environment with a task setter, as an `Environment`."""

import hashlib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from lightning_maml.rl.environment import (
    Environment,
    Flags,
    Floats,
    State,
    Transition,
    finite_rows,
)
from lightning_maml.rl.envs.extra import rl_extra

with rl_extra():
    import gymnasium
    from gymnasium.spaces import Box
    from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

Vectorization = Literal["sync", "async", "custom"]


class Handle(NamedTuple):
    """A moment of the episodes that run in `vector`, which has them only at its latest moment."""

    vector: Any
    moment: int
    tasks: Floats
    observation: Floats
    over: Flags


class GymnasiumVector(Environment):
    """Episodes of a gymnasium environment, one sub-environment each.

    A user's environment needs a method that sets its task, used by the next ``reset``::

        class Pendulum(gymnasium.Env):
            def set_task(self, task):  # an array [task_size]
                self.length = float(task[0])
            ...

        # or in a YAML config, with class_path and init_args
        environment = GymnasiumVector("my_package.Pendulum", task_size=1, horizon=200)

    The start noise becomes the seed of ``reset``: the same numbers give the same episode, if the
    environment draws from its ``np_random`` alone. Actions are scaled from +-1 to the bounds of the
    action space. Observations or rewards that are not finite, or such actions, break an episode
    off. A time limit of the sub-environment's own counts as an end.

    Unlike ours these functions are not pure: the vector environment is made once per number of
    episodes, and a state is good for one step, until the next call for as many episodes.

    Args:
        env: a gymnasium id, an import path of a class or function that makes one environment, or
            that class or function.
        task_size: length of a task vector.
        horizon: H.
        task_setter: name of the method that takes a task vector ``[task_size]``.
        vectorization: "sync", "async" (a process each), or "custom": `env` is an import path of or
            is a function that takes ``num_envs`` and makes a `VectorEnv` without autoreset, which
            understands ``reset(options={"reset_mask": ...})`` and whose task setter takes all
            tasks, ``[num_envs, task_size]``.
        env_kwargs: further arguments for `env`.

    Raises:
        ValueError: naming the argument.
    """

    start_size = 1

    def __init__(
        self,
        env: str | Callable[..., Any],
        task_size: int,
        horizon: int,
        task_setter: str = "set_task",
        vectorization: Vectorization = "sync",
        env_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if vectorization not in get_args(Vectorization):
            raise ValueError(
                f"`vectorization` must be one of {list(get_args(Vectorization))}, "
                f"got {vectorization!r}."
            )
        if horizon < 1:
            raise ValueError(f"`horizon` must be >= 1, got {horizon}.")
        self.task_size, self.horizon = task_size, horizon
        self.task_setter, self.vectorization = task_setter, vectorization
        self._make = partial(_maker(env), **(env_kwargs or {}))
        self._vectors: dict[int, Any] = {}
        self._moments: dict[int, int] = {}
        vector = self._vector(1)
        actions, observations = vector.single_action_space, vector.single_observation_space
        if not (isinstance(actions, Box) and actions.is_bounded()):
            raise ValueError(f"`env` must have a Box action space with bounds, got {actions}.")
        if not isinstance(observations, Box):
            raise ValueError(f"`env` must have a Box observation space, got {observations}.")
        self._low, self._high = actions.low.ravel(), actions.high.ravel()
        self.action_size = len(self._low)
        self.observation_size = int(np.prod(observations.shape))

    def check_tasks(self, tasks: Floats) -> None:
        """Finite numbers; whatever else it asks is for the environment's task setter to say."""
        if tasks.shape[-1] != self.task_size or not np.isfinite(tasks).all():
            raise ValueError(
                f"`tasks` must be {self.task_size} finite numbers per row, got {tasks.tolist()}."
            )

    def start(self, tasks: Floats, noise: Floats) -> tuple[State, Floats]:
        """Set the tasks and reset all."""
        n = len(tasks)
        nothing, every = np.zeros((n, self.observation_size)), np.ones(n, dtype=bool)
        handle = Handle(self._vector(n), 0, tasks, nothing, every)
        return self._begin(handle, every, tasks, noise)

    def restart(
        self, state: Handle, which: Flags, tasks: Floats, noise: Floats
    ) -> tuple[State, Floats]:
        """Set the tasks and reset those in `which`."""
        self._check_latest(state)
        return self._begin(state, which, tasks, noise)

    def step(self, state: Handle, actions: Floats, tasks: Floats) -> Transition:
        """One step of each sub-environment."""
        self._check_latest(state)
        vector, n = state.vector, len(state.over)
        if state.over.any():  # not restarted, so not looked at, but it must not be stepped as it is
            vector.reset(seed=[0] * n, options={"reset_mask": state.over.copy()})
        lost = ~finite_rows(actions)
        share = (np.clip(np.where(lost[:, None], 0.0, actions), -1.0, 1.0) + 1) / 2
        space = vector.action_space
        scaled = (self._low + share * (self._high - self._low)).astype(space.dtype)
        seen, reward, terminated, truncated, _ = vector.step(scaled.reshape(space.shape))
        observation = np.array(seen, dtype=np.float64).reshape(n, -1)
        reward = np.array(reward, dtype=np.float64)
        broken = lost | ~finite_rows(observation) | ~np.isfinite(reward)
        observation[broken], reward[broken] = state.observation[broken], 0.0
        ended = (terminated | truncated) & ~broken
        latest = self._next(state, observation=observation, over=terminated | truncated | broken)
        return Transition(latest, observation.copy(), reward, ended, broken)

    def close(self) -> None:
        """Close the vector environments, and the processes of asynchronous ones."""
        for vector in self._vectors.values():
            vector.close()
        self._vectors.clear()

    def _begin(
        self, state: Handle, which: Flags, tasks: Floats, noise: Floats
    ) -> tuple[State, Floats]:
        observation = state.observation.copy()
        tasks = np.where(which[:, None], tasks, state.tasks)
        if which.any():
            if self.vectorization == "custom":
                getattr(state.vector, self.task_setter)(tasks)
            else:
                state.vector.set_attr("next_task", list(tasks))
            seeds = [_seed(row) for row in noise]
            seen, _ = state.vector.reset(seed=seeds, options={"reset_mask": which.copy()})
            observation[which] = np.asarray(seen).reshape(len(which), -1)[which]
        latest = self._next(state, tasks=tasks, observation=observation, over=state.over & ~which)
        return latest, observation.copy()

    def _next(self, state: Handle, **changes: Any) -> Handle:
        n = len(state.over)
        self._moments[n] = self._moments.get(n, 0) + 1
        return state._replace(moment=self._moments[n], **changes)

    def _check_latest(self, state: Handle) -> None:
        if state.moment != self._moments[len(state.over)]:
            raise ValueError("`state` is not the latest: its sub-environments have moved on.")

    def _vector(self, n: int) -> Any:
        if n not in self._vectors:
            if self.vectorization == "custom":
                self._vectors[n] = self._make(num_envs=n)
                if not isinstance(self._vectors[n], VectorEnv):
                    raise ValueError(f"`env` must make a VectorEnv, got {self._vectors[n]}.")
            else:
                one = partial(_WithTask, self._make, self.task_setter)
                kind = SyncVectorEnv if self.vectorization == "sync" else AsyncVectorEnv
                self._vectors[n] = kind([one] * n, autoreset_mode=AutoresetMode.DISABLED)
        return self._vectors[n]


class _WithTask(gymnasium.Wrapper):
    """Sets the task where the vector environment sets the attribute `next_task`: it can set an
    attribute to another value in each, but call a method only with the same arguments in all.
    """

    def __init__(self, make: Callable[[], Any], setter: str) -> None:
        super().__init__(make())
        try:
            self._set = self.env.get_wrapper_attr(setter)
        except AttributeError as error:
            raise ValueError(
                f"`task_setter` must be a method of {self.env}, got {setter!r}."
            ) from error

    @property
    def next_task(self) -> None:
        """Only to be set."""

    @next_task.setter
    def next_task(self, task: Floats) -> None:
        self._set(task)


def _maker(env: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(env, str):
        return env
    module, _, name = env.rpartition(".")
    if module and env.replace(".", "").isidentifier():
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found
    return partial(gymnasium.make, env)


def _seed(noise: Floats) -> int:
    """A seed that follows from an episode's start noise ``[1]``."""
    digest = hashlib.sha256(np.asarray(noise, dtype=np.float64).tobytes()).digest()
    return int.from_bytes(digest[:4], "little")
