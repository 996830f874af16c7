"""Half-cheetah and ant: physics, observations, rewards and ends against MuJoCo's C functions."""

import pickle
import sys

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from datamodules import RLTasks
from lightning_maml.rl.environment import Environment
from lightning_maml.rl.rollout import sample
from tests.rl import robots

envs = pytest.importorskip("lightning_maml.rl.envs")
CASES = {
    f"{robot} {task}": (robot, task)
    for robot in ("HalfCheetah", "Ant")
    for task in ("velocity", "direction")
}
GOALS = {"velocity": [0.0, 1.3, 2.0, 0.4, 1.0], "direction": [1.0, -1.0, -1.0, 1.0, 1.0]}
every_case = pytest.mark.parametrize(("robot", "task"), CASES.values(), ids=CASES)


def make(robot, task="velocity", **settings):
    return getattr(envs, robot)(task, **{"threads": 1, **settings})


def inputs(environment, task, n=5, steps=30):
    """Tasks, start noise and actions, some beyond the bounds."""
    rng = np.random.default_rng(3)
    tasks = np.array(GOALS[task][:n])[:, None]
    noise = rng.normal(size=(n, environment.start_size))
    return tasks, noise, rng.normal(size=(steps, n, environment.action_size))


def rollout(environment, tasks, noise, actions):
    """The start's observation, and what each step led to."""
    state, first = environment.start(tasks, noise)
    moved = []
    for action in actions:
        moved.append(environment.step(state, action, tasks))
        state = moved[-1].state
    return first, moved


def assert_same(one, other):
    """Bit by bit."""
    for left, right in zip(one, other, strict=True):
        np.testing.assert_array_equal(left, right)


@every_case
def test_trajectory_is_that_of_mujoco(robot, task) -> None:
    """200 steps: positions, velocities, contacts, orientation and centre of mass; rewards."""
    environment = make(robot, task)
    tasks, noise, actions = inputs(environment, task, n=2, steps=200)
    first, moved = rollout(environment, tasks, noise, actions)
    touched = 0.0
    for i in range(2):
        right = robots.trajectory(robot, noise[i], actions[:, i])
        exact = {"rtol": 0, "atol": 1e-9}
        np.testing.assert_allclose(first[i], robots.observation(robot, next(right)), **exact)
        for step, data in enumerate(right):
            want = robots.observation(robot, data)
            np.testing.assert_allclose(moved[step].observation[i], want, **exact)
            reward = robots.reward(robot, task, tasks[i, 0], actions[step, i], data)
            np.testing.assert_allclose(moved[step].reward[i], reward, **exact)
            touched += np.abs(data.cfrc_ext).sum()
    assert touched > 0


def energy(model, qpos, qvel):
    """Potential and kinetic (J)."""
    data = robots.mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = qpos, qvel
    robots.mujoco.mj_forward(model, data)
    robots.mujoco.mj_energyPos(model, data)
    robots.mujoco.mj_energyVel(model, data)
    return data.energy.copy()


@pytest.mark.parametrize("robot", ["HalfCheetah", "Ant"])
def test_energy_is_that_of_mujoco(robot) -> None:
    """The environment's masses and gravity at its states against a loop of `mj_step`."""
    environment = make(robot)
    tasks, noise, actions = inputs(environment, "velocity", n=2, steps=100)
    _, moved = rollout(environment, tasks, noise, actions)
    right_model, ours = robots.model(robot), environment._simulator.model
    for i in range(2):
        right = robots.trajectory(robot, noise[i], actions[:, i])
        next(right)
        for step, data in enumerate(right):
            qpos, qvel = np.split(moved[step].state[i, 1 : 1 + ours.nq + ours.nv], [ours.nq])
            want = energy(right_model, data.qpos, data.qvel)
            np.testing.assert_allclose(energy(ours, qpos, qvel), want, rtol=1e-9, atol=1e-9)
            assert want.min() > 0


@pytest.mark.parametrize(("robot", "size"), [("HalfCheetah", 20), ("Ant", 125)])
def test_task_is_seen_by_the_oracle_only(robot, size) -> None:
    plain, oracle = make(robot), make(robot, task_in_observation=True)
    assert (plain.observation_size, oracle.observation_size) == (size, size + 1)
    tasks, noise, actions = inputs(plain, "velocity", steps=2)
    for blind, seeing in zip(
        *[
            [first, *(m.observation for m in moved)]
            for first, moved in (rollout(e, tasks, noise, actions) for e in (plain, oracle))
        ],
        strict=True,
    ):
        assert blind.shape == (5, size)
        np.testing.assert_array_equal(seeing, np.hstack([blind, tasks]))


@every_case
def test_episode_depends_on_nothing_else(robot, task) -> None:
    """Bit by bit: one thread or two, alone or with others, once more on the same state."""
    environment = make(robot, task)
    tasks, noise, actions = inputs(environment, task)
    _, alone = rollout(environment, tasks, noise, actions)
    _, threads = rollout(make(robot, task, threads=2), tasks, noise, actions)
    order = [3, 1, 4]
    _, others = rollout(environment, tasks[order], noise[order], actions[:, order])
    _, single = rollout(environment, tasks[3:4], noise[3:4], actions[:, 3:4])
    for a, b, c, d in zip(alone, threads, others, single, strict=True):
        assert_same(a, b)
        assert_same([part[order] for part in a], c)
        assert_same([part[3:4] for part in a], d)


@pytest.mark.parametrize("robot", ["HalfCheetah", "Ant"])
def test_trajectories_follow_from_the_keys_whatever_the_threads(robot) -> None:
    """A whole rollout, ends and restarts too, and once more."""
    batch = RLTasks(low=[0.0], high=[2.0]).samplers["train"](7, 3)
    actions = make(robot).action_size

    def policy(x):
        """Mean 0, standard deviation 2: falls sometimes."""
        return torch.cat([x[..., :actions] * 0, x[..., :actions] * 0 + np.log(2)], dim=-1)

    once, again, threads = (
        sample(make(robot, horizon=60, threads=n), policy, batch, 4) for n in (1, 1, 3)
    )
    assert_same(once, again)
    assert_same(once, threads)


@every_case
def test_step_is_a_pure_function(robot, task) -> None:
    environment = make(robot, task)
    tasks, noise, actions = inputs(environment, task)
    _, moved = rollout(environment, tasks, noise, actions)
    state, kept = moved[10].state, moved[10].state.copy()
    observation = moved[10].observation
    observation[:] = 7  # whoever keeps it may write to it
    again = environment.step(state, actions[11], tasks)
    np.testing.assert_array_equal(state, kept)
    assert_same(again, moved[11])
    copied = pickle.loads(pickle.dumps(environment))
    assert_same(copied.step(state, actions[11], tasks), moved[11])


@every_case
def test_restart_touches_only_some(robot, task) -> None:
    environment = make(robot, task)
    tasks, noise, actions = inputs(environment, task)
    _, moved = rollout(environment, tasks, noise, actions)
    which = np.array([True, False, False, True, False])
    other_noise = np.where(which[:, None], noise[::-1], np.nan)
    kept = moved[-1].state.copy()
    state, observation = environment.restart(moved[-1].state, which, tasks, other_noise)
    np.testing.assert_array_equal(moved[-1].state, kept)
    fresh, first = environment.start(tasks, noise[::-1])
    np.testing.assert_array_equal(state, np.where(which[:, None], fresh, moved[-1].state))
    want = np.where(which[:, None], first, moved[-1].observation)
    np.testing.assert_array_equal(observation, want)


def test_starts_are_spread_as_the_authors_are() -> None:
    environment = make("HalfCheetah")
    noise = np.random.default_rng(0).normal(size=(4000, 18))
    _, first = environment.start(np.ones((4000, 1)), noise)
    np.testing.assert_allclose(first[:, :8].std(axis=0), 0.01, rtol=0.05)
    np.testing.assert_allclose(first[:, 8:17].std(axis=0), 0.1, rtol=0.05)


def test_ant_ends_outside_its_heights() -> None:
    environment = make("Ant")
    heights = np.array([0.15, 0.3, 0.95, 1.1])
    noise = np.zeros((4, 29))
    noise[:, 2] = (heights - 0.55) / 0.01
    state, _ = environment.start(np.ones((4, 1)), noise)
    moved = environment.step(state, np.zeros((4, 8)), np.ones((4, 1)))
    assert moved.ended.tolist() == [True, False, False, True]
    assert not moved.broken.any()


def test_half_cheetah_never_ends() -> None:
    environment = make("HalfCheetah")
    _, moved = rollout(environment, *inputs(environment, "velocity", steps=200))
    assert not any(m.ended.any() or m.broken.any() for m in moved)


@every_case
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_action_that_is_no_number_breaks_its_episode(
    robot, task, number, tmp_path, monkeypatch
) -> None:
    """The episode stays as it was, contact forces too; MuJoCo does not see the number."""
    monkeypatch.chdir(tmp_path)  # it would write a log
    environment = make(robot, task)
    tasks, noise, actions = inputs(environment, task, steps=60)
    _, moved = rollout(environment, tasks, noise, actions)
    # In contact, with forces that are not clipped: those follow the action.
    contact = [np.abs(m.observation[2, 29:113]) for m in moved[:-1]]
    touching = [i for i, c in enumerate(contact) if ((c > 0) & (c < 1)).any() or robot != "Ant"]
    last = touching[-1]
    bad = actions[last + 1].copy()
    bad[2, 1] = number
    broken = environment.step(moved[last].state, bad, tasks)
    assert broken.broken.tolist() == [False, False, True, False, False]
    assert broken.reward[2] == 0
    assert not broken.ended[2]
    np.testing.assert_array_equal(broken.observation[2], moved[last].observation[2])
    others = [0, 1, 3, 4]
    assert_same([p[others] for p in broken], [p[others] for p in moved[last + 1]])
    assert not list(tmp_path.iterdir())


@every_case
@pytest.mark.parametrize("speed", [1e9, 1e12, np.nan])
@pytest.mark.parametrize("first", [True, False])
def test_exploded_state_breaks_its_episode(
    robot, task, speed, first, tmp_path, monkeypatch
) -> None:
    """MuJoCo would start over by itself, and write a log into the working folder."""
    monkeypatch.chdir(tmp_path)
    environment = make(robot, task)
    tasks, noise, actions = inputs(environment, task)
    state, _ = environment.start(tasks, noise)
    if not first:
        state = rollout(environment, tasks, noise, actions)[1][-1].state
    whole = environment.step(state, actions[0], tasks)
    wild = state.copy()
    wild[2, {"HalfCheetah": 12, "Ant": 20}[robot]] = speed  # an angular velocity
    moved = environment.step(wild, actions[0], tasks)
    for _ in range(3):  # and goes on being broken
        assert moved.broken.tolist() == [False, False, True, False, False]
        assert moved.reward[2] == 0
        assert all(np.isfinite(part).all() for part in moved)
        again = moved
        moved = environment.step(moved.state, actions[1], tasks)
        if not np.isfinite(speed):
            break
    assert not list(tmp_path.iterdir())
    others = [0, 1, 3, 4]
    if not np.isfinite(speed):
        assert_same([p[others] for p in again], [p[others] for p in whole])


@pytest.mark.parametrize("robot", ["HalfCheetah", "Ant"])
def test_impossible_arguments_are_named(robot) -> None:
    with pytest.raises(ValueError, match=r"`task`.*velocity.*direction.*'speed'"):
        make(robot, "speed")
    with pytest.raises(ValueError, match=r"`horizon`.*>= 1.*0"):
        make(robot, horizon=0)
    with pytest.raises(ValueError, match=r"`threads`.*>= 1.*0"):
        make(robot, threads=0)
    environment = make(robot)
    state, _ = environment.start(np.ones((2, 1)), np.zeros((2, environment.start_size)))
    with pytest.raises(ValueError, match=r"`actions`.*\(2, \d\).*\(2, 3\)"):
        environment.step(state, np.zeros((2, 3)), np.ones((2, 1)))


@pytest.mark.parametrize(
    ("task", "possible", "impossible"),
    [
        ("velocity", [[0.0], [3.7]], [[[-0.1]], [[np.nan]], [[np.inf]], [[1.0, 1.0]]]),
        ("direction", [[1.0], [-1.0]], [[[0.0]], [[0.5]], [[np.nan]], [[1.0, 1.0]]]),
    ],
)
@pytest.mark.parametrize("robot", ["HalfCheetah", "Ant"])
def test_impossible_tasks_are_named(robot, task, possible, impossible) -> None:
    environment = make(robot, task)
    environment.check_tasks(np.array(possible))
    for tasks in impossible:
        with pytest.raises(ValueError, match="`tasks` must be"):
            environment.check_tasks(np.array(tasks))


@pytest.mark.parametrize("missing", ["mujoco", "gymnasium"])
def test_what_is_missing_is_named(missing, monkeypatch) -> None:
    for name in [m for m in sys.modules if m.startswith("lightning_maml.rl.envs")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    from lightning_maml.rl import envs as fresh

    assert fresh.Point().horizon == 100
    with pytest.raises(ImportError, match=r'pip install "lightning-maml\[rl\]"'):
        fresh.HalfCheetah  # noqa: B018


def test_half_cheetah_weighs_what_its_file_says() -> None:
    assert robots.model("HalfCheetah").body_subtreemass[0] == pytest.approx(14)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Point", {}),
        ("HalfCheetah", {"task": "velocity"}),
        ("Ant", {"task": "direction", "threads": 1}),
        (
            "from_gymnasium.GymnasiumVector",
            {"env": "tests.rl.test_from_gymnasium.Walk", "task_size": 1, "horizon": 5},
        ),
    ],
)
def test_can_be_named_in_a_config(name, settings) -> None:
    parser = ArgumentParser()
    parser.add_argument("--environment", type=Environment)
    named = {"class_path": f"lightning_maml.rl.envs.{name}", "init_args": settings}
    made = parser.instantiate_classes(parser.parse_object({"environment": named})).environment
    assert type(made).__name__ == name.rpartition(".")[2]
    assert isinstance(made, Environment)
