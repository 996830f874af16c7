"""lightning_maml/run/checkpointing.py: the time of a run, whatever its parts."""

import time
from types import SimpleNamespace

import pytest

from lightning_maml.run.checkpointing import RunState


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def training(state: RunState) -> None:
    state.on_train_start(SimpleNamespace(world_size=1, global_rank=0), None)


def test_seconds_are_those_of_all_parts_of_a_run_and_of_nothing_between(clock) -> None:
    first = RunState()
    assert first.state_dict()["seconds"] == 0
    clock.now += 50  # setting up
    training(first)
    clock.now += 7
    stored = first.state_dict()
    assert stored["seconds"] == 7
    clock.now += 1_000  # not stored, so it is lost
    second = RunState()
    second.load_state_dict(stored)
    assert second.state_dict()["seconds"] == 7
    training(second)
    clock.now += 5
    assert second.state_dict()["seconds"] == 12
    second.on_train_end(None, None)
    clock.now += 3_600
    assert second.state_dict()["seconds"] == 12
    training(second)  # the same trainer's second fit
    clock.now += 4
    assert second.state_dict()["seconds"] == 16


def test_seconds_of_a_run_that_began_without_them_are_unknown(clock) -> None:
    stored = RunState().state_dict()
    del stored["seconds"]
    later = RunState()
    later.load_state_dict(stored)
    training(later)
    clock.now += 5
    assert later.state_dict()["seconds"] is None
