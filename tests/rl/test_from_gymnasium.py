"""A user's own gymnasium environments through `GymnasiumVector`."""

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra `rl`")
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv

from lightning_maml.rl.environment import Environment
from lightning_maml.rl.envs.from_gymnasium import GymnasiumVector


class Walk(gymnasium.Env):
    """Moves along a line from a random place; the reward is minus the distance to the task."""

    def __init__(self, actions=None, far=np.inf, lost=np.inf):
        self.observation_space = Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = actions or Box(-2.0, 4.0, (1,), np.float32)
        self.far, self.lost = far, lost

    def set_task(self, task):
        self.goal = float(task[0])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1)
        return np.array([self.place], np.float32), {}

    def step(self, action):
        self.place += float(action[0])
        reward = np.nan if self.place > self.lost else -abs(self.place - self.goal)
        return np.array([self.place], np.float32), reward, self.place > self.far, False, {}


class Walks(VectorEnv):
    """The same, written for a batch."""

    def __init__(self, num_envs):
        self.num_envs = num_envs
        self.single_observation_space = Box(-np.inf, np.inf, (1,), np.float32)
        self.single_action_space = Box(-2.0, 4.0, (1,), np.float32)
        self.action_space = Box(-2.0, 4.0, (num_envs, 1), np.float32)
        self.place = np.zeros(num_envs)

    def set_task(self, tasks):
        assert np.isfinite(tasks).all()
        self.goals = tasks[:, 0].copy()

    def reset(self, *, seed=None, options=None):
        for i in np.flatnonzero(options["reset_mask"]):
            self.place[i] = gymnasium.utils.seeding.np_random(seed[i])[0].uniform(-1, 1)
        return self.place[:, None].astype(np.float32), {}

    def step(self, actions):
        self.place += actions[:, 0]
        over = self.place > 5
        reward = -np.abs(self.place - self.goals)
        return self.place[:, None].astype(np.float32), reward, over, np.zeros_like(over), {}


HERE = __name__
CASES = {
    "path": {"env": f"{HERE}.Walk", "env_kwargs": {"far": 5.0}},
    "class": {"env": Walk, "env_kwargs": {"far": 5.0}},
    "async": {"env": Walk, "env_kwargs": {"far": 5.0}, "vectorization": "async"},
    "custom": {"env": f"{HERE}.Walks", "vectorization": "custom"},
    "id": {"env": "lightning_maml_tests/Walk-v0", "env_kwargs": {"far": 5.0}},
}
TASKS = np.array([[1.0], [-2.0], [3.0]])
NOISE = np.array([[0.3], [-1.2], [0.3]])


@pytest.fixture
def registered():
    gymnasium.register("lightning_maml_tests/Walk-v0", f"{HERE}:Walk")
    yield
    del gymnasium.registry["lightning_maml_tests/Walk-v0"]


@pytest.fixture
def make(registered):
    made = []

    def one(**settings):
        made.append(GymnasiumVector(**{"task_size": 1, "horizon": 7, **settings}))
        return made[-1]

    yield one
    for environment in made:
        environment.close()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_episodes_are_the_user_s(make, case) -> None:
    """Seeds from the noise, own tasks, scaled and clipped actions, ends, restarts of some."""
    environment = make(**case)
    assert isinstance(environment, Environment)
    sizes = environment.observation_size, environment.action_size, environment.start_size
    assert sizes == (1, 1, 1)
    state, place = environment.start(TASKS, NOISE)
    assert place[0] == place[2] != place[1]  # as their noise
    assert (np.abs(place) < 1).all()
    first = place
    moved = environment.step(state, np.array([[-1.0], [0.0], [7.0]]), TASKS)
    place = place + np.array([[-2], [1], [4]])  # bounds -2 and 4
    np.testing.assert_allclose(moved.observation, place, atol=1e-6)
    np.testing.assert_allclose(moved.reward, -np.abs(place - TASKS)[:, 0], atol=1e-6)
    assert not moved.ended.any()
    moved = environment.step(moved.state, np.array([[0.0], [0.0], [1.0]]), TASKS)
    assert moved.ended.tolist() == [False, False, True]
    assert not moved.broken.any()
    which = np.array([True, False, False])
    other = np.array([[-5.0], [np.nan], [np.nan]])
    state, seen = environment.restart(moved.state, which, other, np.full((3, 1), 0.3))
    np.testing.assert_array_equal(seen[0], first[0])
    np.testing.assert_array_equal(seen[1:], moved.observation[1:])
    moved = environment.step(state, np.zeros((3, 1)), other)  # the third is over, and left alone
    np.testing.assert_allclose(moved.reward[:2], [-abs(first[0, 0] + 6), -abs(first[1, 0] + 5)])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_state_of_the_past_is_refused(make, case) -> None:
    environment = make(**case)
    state, _ = environment.start(TASKS, NOISE)
    environment.step(state, np.zeros((3, 1)), TASKS)
    with pytest.raises(ValueError, match="`state` is not the latest"):
        environment.step(state, np.zeros((3, 1)), TASKS)
    with pytest.raises(ValueError, match="`state` is not the latest"):
        environment.restart(state, np.ones(3, bool), TASKS, NOISE)


def test_what_is_no_number_breaks_the_episode(make) -> None:
    environment = make(env=Walk, env_kwargs={"lost": 6.0})
    state, first = environment.start(TASKS, NOISE)
    moved = environment.step(state, np.array([[np.nan], [0.0], [1.0]]), TASKS)
    assert moved.broken.tolist() == [True, False, False]
    np.testing.assert_array_equal(moved.observation[0], first[0])
    assert moved.reward[0] == 0
    last = moved.observation[2]
    moved = environment.step(moved.state, np.array([[0.0], [0.0], [1.0]]), TASKS)
    assert moved.broken.tolist() == [False, False, True]  # its reward is NaN
    np.testing.assert_array_equal(moved.observation[2], last)
    assert not moved.ended.any()


def test_impossible_arguments_are_named(make) -> None:
    with pytest.raises(ValueError, match=r"`vectorization`.*'threads'"):
        make(env=Walk, vectorization="threads")
    with pytest.raises(ValueError, match=r"`horizon`.*0"):
        make(env=Walk, horizon=0)
    with pytest.raises(ValueError, match=r"`task_setter`.*'set_goal'"):
        make(env=Walk, task_setter="set_goal")
    for actions in (Discrete(3), Box(-np.inf, np.inf, (1,), np.float32)):
        with pytest.raises(ValueError, match="`env` must have a Box action space"):
            make(env=Walk, env_kwargs={"actions": actions})
    with pytest.raises(ValueError, match="`env` must make a VectorEnv"):
        make(env=lambda num_envs: Walk(), vectorization="custom")
    with pytest.raises(ValueError, match="`tasks` must be 1 finite number"):
        make(env=Walk).check_tasks(np.array([[np.nan]]))
