"""One episode of an `Environment` as a `gymnasium.Env`. Importing this registers ours:

import lightning_maml.rl.envs.as_gymnasium
env = gymnasium.make("lightning_maml/HalfCheetahVelocity-v0")
observation, info = env.reset(seed=0, options={"task": [1.5]})
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_maml.rl import envs
from lightning_maml.rl.environment import Environment, Floats
from lightning_maml.rl.envs.extra import rl_extra

with rl_extra():
    import gymnasium
    from gymnasium.spaces import Box

Tasks = Sequence[Sequence[float]]


class GymnasiumEnvironment(gymnasium.Env[Floats, Any]):
    """Gives the same trajectories as the environment's own functions.

    ``reset(options={"task": [...]})`` sets the task; without, one is drawn. ``terminated`` is the
    environment's own end; ``truncated`` is the horizon or an episode that could not be simulated
    on (then ``info["broken"]`` is true).

    Args:
        environment: any `Environment`.
        task_range: lowest and highest task vector, to draw uniformly between.
        task_choices: task vectors, to draw one of; either this or `task_range`.
        render_mode: "rgb_array", if the environment has a method `frame`, or none.

    Raises:
        ValueError: naming the argument.
    """

    def __init__(
        self,
        environment: Environment,
        task_range: Tasks | None = None,
        task_choices: Tasks | None = None,
        render_mode: str | None = None,
    ) -> None:
        if (task_range is None) == (task_choices is None):
            raise ValueError("give `task_range` or `task_choices`, and not both.")
        modes = ["rgb_array"] if hasattr(environment, "frame") else []
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"`render_mode` must be one of {[None, *modes]}, got {render_mode!r}.")
        self.environment, self.render_mode = environment, render_mode
        self.metadata = {"render_modes": modes, "render_fps": 50}
        self._uniform = task_choices is None
        self._tasks = np.array(task_range if task_choices is None else task_choices, np.float64)
        environment.check_tasks(self._tasks)
        self.observation_space = Box(-np.inf, np.inf, (environment.observation_size,), np.float64)
        self.action_space = Box(-1.0, 1.0, (environment.action_size,), np.float32)
        self._state: Any = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """A new episode.

        Raises:
            ValueError: for a task that cannot be.
        """
        super().reset(seed=seed)
        task = self._draw() if not options or "task" not in options else options["task"]
        self._task = np.array(task, dtype=np.float64).reshape(1, -1)
        self.environment.check_tasks(self._task)
        noise = self.np_random.standard_normal((1, self.environment.start_size))
        self._state, observation = self.environment.start(self._task, noise)
        self._age = 0
        return observation[0].copy(), self._info(broken=False)

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """One step of the episode."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("`reset` must be called before `step`.")
        actions = np.asarray(action, dtype=np.float64)[None]
        moved = self.environment.step(self._state, actions, self._task)
        self._state, self._age = moved.state, self._age + 1
        broken = bool(moved.broken[0])
        truncated = broken or self._age >= self.environment.horizon
        reward, ended = float(moved.reward[0]), bool(moved.ended[0])
        return moved.observation[0].copy(), reward, ended, truncated, self._info(broken)

    def render(self) -> Any:
        """The episode as an image, or nothing if no `render_mode` was asked for."""
        if self.render_mode is None:
            return None
        if self._state is None:
            raise gymnasium.error.ResetNeeded("`reset` must be called before `render`.")
        environment: Any = self.environment
        return environment.frame(self._state, 0)

    def _draw(self) -> Floats:
        if self._uniform:
            lowest, highest = self._tasks
            return lowest + (highest - lowest) * self.np_random.random(len(lowest))
        chosen: Floats = self._tasks[self.np_random.integers(len(self._tasks))]
        return chosen

    def _info(self, broken: bool) -> dict[str, Any]:
        return {"task": self._task[0].copy(), "broken": broken}


def make(
    name: str,
    task_range: Tasks | None = None,
    task_choices: Tasks | None = None,
    render_mode: str | None = None,
    **settings: Any,
) -> GymnasiumEnvironment:
    """`GymnasiumEnvironment` of ``lightning_maml.rl.envs.<name>(**settings)``."""
    environment = getattr(envs, name)(**settings)
    return GymnasiumEnvironment(environment, task_range, task_choices, render_mode)


def register() -> None:
    """Register the paper's environments, with the paper's tasks, as ``lightning_maml/...-v0``."""
    directions = {"task": "direction", "task_choices": [[-1.0], [1.0]], "threads": 1}
    velocity = {"task": "velocity", "threads": 1}
    ours: dict[str, dict[str, Any]] = {
        "Point": {"name": "Point", "task_range": [[-0.5, -0.5], [0.5, 0.5]]},
        "HalfCheetahVelocity": {"name": "HalfCheetah", "task_range": [[0.0], [2.0]], **velocity},
        "HalfCheetahDirection": {"name": "HalfCheetah", **directions},
        "AntVelocity": {"name": "Ant", "task_range": [[0.0], [3.0]], **velocity},
        "AntDirection": {"name": "Ant", **directions},
    }
    for name, settings in ours.items():
        if f"lightning_maml/{name}-v0" not in gymnasium.registry:
            gymnasium.register(f"lightning_maml/{name}-v0", f"{__name__}:make", kwargs=settings)


register()
