"""Threads that act side by side take turns in Python, and go on if one of them fails."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from datamodules import RLTasks
from lightning_maml.rl import GaussianMLP
from lightning_maml.rl.envs import Point
from lightning_maml.rl.policy_engine import PolicyEngine
from lightning_maml.rl.rollout import sample
from lightning_maml.rl.turn import given_up, taken


class Seen:
    """How many threads are in Python, and at most were, and the same where Python is not needed."""

    def __init__(self):
        self.python, self.elsewhere, self.most = 0, 0, {"python": 0, "elsewhere": 0}
        self._lock = threading.Lock()

    def count(self, where, change):
        with self._lock:
            now = getattr(self, where) + change
            setattr(self, where, now)
            self.most[where] = max(self.most[where], now)

    def stay(self, where, seconds=0.01):
        self.count(where, 1)
        time.sleep(seconds)
        self.count(where, -1)


class Slow(Point):
    """Two side by side, whose steps are half Python."""

    def __init__(self, seen, fails_at=None, gives_way=True):
        super().__init__(horizon=5)
        self.seen, self.fails_at, self.gives_way, self.steps = seen, fails_at, gives_way, 0

    def side_by_side(self):
        return Slow(self.seen, self.fails_at, self.gives_way), Slow(self.seen, None, self.gives_way)

    def step(self, state, actions, tasks):
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError("out of the simulator")
        self.seen.stay("python")
        with given_up():
            self.seen.stay("elsewhere", 0.03)
        return super().step(state, actions, tasks)


def acted(environment):
    engine = PolicyEngine(GaussianMLP(environment.observation_size, environment.action_size))
    batch = RLTasks(low=[-1.0, -1.0], high=[1.0, 1.0]).samplers["train"](0, 4)
    with torch.no_grad():
        return sample(environment, engine.policies(engine.initial(4)), batch, streams=2)


def test_one_at_a_time_runs_python() -> None:
    seen = Seen()
    acted(Slow(seen))
    assert seen.most == {"python": 1, "elsewhere": 2}


def test_threads_whose_environment_does_not_give_way_run_as_they_like() -> None:
    seen = Seen()
    acted(Slow(seen, gives_way=False))
    assert seen.most["python"] == 2


def test_a_failing_thread_lets_the_others_go_on() -> None:
    with pytest.raises(RuntimeError, match="out of the simulator"):
        acted(Slow(Seen(), fails_at=2))
    assert takes_turn(1)  # it was given back
    acted(Slow(Seen()))


def test_without_a_turn_there_is_none_to_give_up() -> None:
    with taken(), ThreadPoolExecutor(1) as pool:

        def other():
            with given_up():
                return "went on"

        assert pool.submit(other).result(timeout=5) == "went on"
        assert not pool.submit(lambda: takes_turn(0.05)).result(timeout=5)  # still ours
    assert takes_turn(0.05)


def test_turns_may_be_taken_and_given_up_within_each_other() -> None:
    with taken(), taken():
        with given_up(), given_up():
            assert takes_turn(1)
        assert not takes_turn(0.05)
    assert takes_turn(1)


def takes_turn(seconds):
    """Whether another thread gets the turn within that time."""
    done = threading.Event()

    def take():
        with taken():
            done.set()

    threading.Thread(target=take, daemon=True).start()
    return done.wait(seconds)
