"""The paper's environments as registered gymnasium environments."""

import re
import warnings

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra `rl`")
pytest.importorskip("mujoco", reason="needs the extra `rl`")
from gymnasium.utils.env_checker import check_env

from lightning_maml.rl.envs import Ant, HalfCheetah, Point
from lightning_maml.rl.envs.as_gymnasium import GymnasiumEnvironment, register

CASES = {
    "Point": (lambda: Point(), [0.3, -0.4]),
    "HalfCheetahVelocity": (lambda: HalfCheetah("velocity"), [1.5]),
    "HalfCheetahDirection": (lambda: HalfCheetah("direction"), [-1.0]),
    "AntVelocity": (lambda: Ant("velocity"), [2.5]),
    "AntDirection": (lambda: Ant("direction"), [1.0]),
}


def made(name, **settings):
    return gymnasium.make(f"lightning_maml/{name}-v0", **settings).unwrapped


def can_render() -> bool:
    environment = made("HalfCheetahVelocity", render_mode="rgb_array")
    environment.reset(seed=0)
    try:
        return environment.render().shape == (480, 480, 3)
    except RuntimeError:
        return False


@pytest.mark.parametrize("name", CASES)
def test_passes_the_check_of_gymnasium(name) -> None:
    with warnings.catch_warnings():
        # Positions and velocities have no bounds, in gymnasium's own environments neither.
        warnings.filterwarnings("ignore", ".*Box observation space (min|max)imum value is -?inf")
        check_env(made(name), skip_render_check=not can_render())


@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES)
def test_trajectory_is_that_of_the_batched_functions(name, case) -> None:
    """Bit by bit, as one of three episodes in a batch, up to the horizon."""
    batched, one, task = case[0](), made(name), case[1]
    observation, info = one.reset(seed=5, options={"task": task})
    np.testing.assert_array_equal(info["task"], task)
    noise = np.random.default_rng(5).standard_normal((1, batched.start_size))
    tasks, noise = np.repeat([task], 3, axis=0), np.vstack([noise, noise + 1, noise])
    state, first = batched.start(tasks, noise)
    np.testing.assert_array_equal(observation, first[0])
    rng = np.random.default_rng(1)
    for age in range(1, batched.horizon + 1):
        actions = 0.3 * rng.standard_normal((3, batched.action_size))
        moved = batched.step(state, actions, tasks)
        state = moved.state
        observation, reward, terminated, truncated, info = one.step(actions[0])
        np.testing.assert_array_equal(observation, moved.observation[0])
        assert reward == moved.reward[0]
        assert terminated is bool(moved.ended[0])
        assert truncated is (age == batched.horizon)
        assert info["broken"] is False


def test_end_is_a_termination_and_a_broken_episode_a_truncation() -> None:
    environment = made("Point")
    environment.reset(seed=0, options={"task": [0.1, 0.1]})
    assert environment.step(np.ones(2))[2:4] == (True, False)
    environment = made("HalfCheetahDirection")
    environment.reset(seed=0)
    *_, terminated, truncated, info = environment.step(np.full(6, np.nan))
    assert (terminated, truncated, info["broken"]) == (False, True, True)


def test_tasks_are_drawn_from_the_paper_s_distributions() -> None:
    drawn = {name: [made(name).reset(seed=s)[1]["task"] for s in range(40)] for name in CASES}
    for name, low, high in [
        ("Point", -0.5, 0.5),
        ("HalfCheetahVelocity", 0, 2),
        ("AntVelocity", 0, 3),
    ]:
        tasks = np.array(drawn[name])
        assert low <= tasks.min() < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < tasks.max() <= high
    for name in ("HalfCheetahDirection", "AntDirection"):
        assert sorted(np.unique(drawn[name])) == [-1, 1]


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="`task_range` or `task_choices`"):
        GymnasiumEnvironment(Point())
    with pytest.raises(ValueError, match="`tasks` must be goals"):
        GymnasiumEnvironment(Point(), task_range=[[0.0], [1.0]])
    with pytest.raises(ValueError, match=r"`render_mode`.*None\].*'rgb_array'"):
        GymnasiumEnvironment(Point(), task_choices=[[0.0, 0.0]], render_mode="rgb_array")
    environment = made("AntDirection")
    with pytest.raises(ValueError, match=re.escape("`tasks` must be directions")):
        environment.reset(options={"task": [0.5]})
    with pytest.raises(gymnasium.error.ResetNeeded, match="`reset` must be called before `step`"):
        environment.step(np.zeros(8))


def test_registering_twice_is_once() -> None:
    register()
    assert sum(name.startswith("lightning_maml/") for name in gymnasium.registry) == len(CASES)
