"""One clear line for what a user's own environment does not have right."""

from typing import Any

import numpy as np

from lightning_maml.rl.environment import Environment, Floats, Transition

SIZES = {"observation_size": 1, "action_size": 1, "task_size": 1, "start_size": 0, "horizon": 1}
"""What an environment must say of itself, and the least that it can be."""


def check_environment(environment: Any) -> None:
    """Raise ValueError unless it is an `Environment` that says its sizes and horizon."""
    if not isinstance(environment, Environment):
        raise ValueError(
            "`environment` must be a lightning_maml.rl.Environment (one of gymnasium's: in "
            "lightning_maml.rl.envs.from_gymnasium.GymnasiumVector), got "
            f"{type(environment).__name__}."
        )
    for name, least in SIZES.items():
        value = getattr(environment, name, None)
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(
                f"`environment` must have `{name}`, an integer >= {least}, got {value!r} in "
                f"{type(environment).__name__}."
            )


def check_tasks(environment: Environment, tasks: Floats) -> None:
    """Raise ValueError unless `tasks` are task vectors of this environment."""
    if tasks.shape[1] != environment.task_size:
        raise ValueError(
            f"Task vectors must have {environment.task_size} numbers each (`task_size` of "
            f"{type(environment).__name__}), got {tasks.shape[1]} from the data."
        )
    environment.check_tasks(tasks)


def check_start(environment: Environment, observation: Any, episodes: int) -> None:
    """Raise ValueError unless `start` gave an observation of each episode."""
    _check(environment, "start", "observation", observation, (episodes, _width(environment)))


def check_step(environment: Environment, moved: Transition, episodes: int) -> None:
    """Raise ValueError unless `step` gave arrays of the right shapes, and flags that are bool."""
    shapes: dict[str, tuple[int, ...]] = {
        "observation": (episodes, _width(environment)),
        "reward": (episodes,),
        "ended": (episodes,),
        "broken": (episodes,),
    }
    for name, shape in shapes.items():
        dtype = bool if name in ("ended", "broken") else None
        _check(environment, "step", name, getattr(moved, name, None), shape, dtype)


def check_seen(environment: Environment, seen: Floats) -> None:
    """Raise ValueError where what the policy is shown is not finite."""
    if not np.isfinite(seen).all():
        raise ValueError(
            f"`observation` must be finite, as {seen.dtype}, as long as an episode is not broken, "
            f"got {seen[~np.isfinite(seen).all(axis=1)][0].tolist()} from "
            f"{type(environment).__name__}."
        )


def check_reward(environment: Environment, reward: Floats) -> None:
    """Raise ValueError where the reward of a step that is not broken is not finite."""
    if not np.isfinite(reward).all():
        raise ValueError(
            f"`reward` of `{type(environment).__name__}.step` must be finite as long as an episode "
            f"is not broken, got {reward[~np.isfinite(reward)][0]}."
        )


def _width(environment: Environment) -> int:
    return int(environment.observation_size)


def _check(
    environment: Environment,
    method: str,
    name: str,
    given: Any,
    shape: tuple[int, ...],
    dtype: type | None = None,
) -> None:
    right = isinstance(given, np.ndarray) and given.shape == shape
    if not right or (dtype is not None and given.dtype != dtype):
        what = f"of {dtype.__name__}, " if dtype else ""
        found = type(given).__name__
        if isinstance(given, np.ndarray):
            found = f"an array of {given.dtype}, {list(given.shape)}"
        raise ValueError(
            f"`{name}` of `{type(environment).__name__}.{method}` must be a numpy array {what}"
            f"{list(shape)}, got {found}."
        )
