"""What makes acting fast changes nothing: parts in threads, streams left out, MLPs without vmap."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from datamodules import RLTasks
from lightning_maml.rl import GaussianMLP, MetaPolicy, Transition
from lightning_maml.rl.envs import Point
from lightning_maml.rl.policy_engine import PolicyEngine
from lightning_maml.rl.rollout import sample


class Doubled(GaussianMLP):
    """Not quite a `GaussianMLP`."""

    def forward(self, x):
        return 2 * super().forward(x)


def own_theta(engine, tasks):
    generator = torch.Generator().manual_seed(1)
    start = engine.initial(tasks).items()
    return {n: p + 0.1 * torch.randn(p.shape, generator=generator) for n, p in start}


def hooked(*sizes):
    policy = GaussianMLP(*sizes)
    policy.mean.register_forward_hook(lambda module, args, output: output + 1)
    return policy


@pytest.mark.parametrize("make", [GaussianMLP, Doubled, hooked])
def test_policies_of_tasks_are_the_module_with_their_parameters(make) -> None:
    policy, x = make(3, 2), torch.randn(5, 4, 3)
    engine = PolicyEngine(policy)
    theta = own_theta(engine, 5)
    theta["log_std"][0] = -100  # below the least there is
    found = engine.policies(theta)
    for task in range(5):
        own = {name: value[task] for name, value in theta.items()}
        expected = functional_call(policy, own, (x[task],))
        torch.testing.assert_close(found(x)[task], expected)
    torch.testing.assert_close(found.part(slice(2, 5))(x[2:]), found(x)[2:])


def test_mlps_are_those_of_vmap_to_the_bit() -> None:
    engine, x = PolicyEngine(GaussianMLP(20, 6)), torch.randn(5, 4, 20)
    found = engine.policies(own_theta(engine, 5))
    with torch.no_grad():
        assert torch.equal(found(x), found._any_module(x))


@pytest.mark.parametrize("make", [GaussianMLP, Doubled])
def test_autocast_does_not_reach_what_samples(make) -> None:
    engine, x = PolicyEngine(make(20, 6)), torch.randn(5, 4, 20)
    found = engine.policies(own_theta(engine, 5))
    with torch.no_grad():
        expected = found(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(found(x), expected)


def test_parameters_that_are_not_adapted_are_the_module_s() -> None:
    policy, x = GaussianMLP(3, 2), torch.randn(5, 4, 3)
    engine = PolicyEngine(policy, adapts=("log_std",))
    found = engine.policies(own_theta(engine, 5))(x)
    torch.testing.assert_close(found[..., :2], policy(x)[..., :2])


def rollout(environment, make=GaussianMLP, tasks=5, low=0.0, high=2.0):
    torch.manual_seed(0)
    engine = PolicyEngine(make(environment.observation_size, environment.action_size))
    size = environment.task_size
    batch = RLTasks(low=[low] * size, high=[high] * size).samplers["train"](0, tasks)
    return sample(environment, engine.policies(own_theta(engine, tasks)), batch, 3)


def assert_same(one, other):
    """Wherever there is a step."""
    assert torch.equal(one.valid, other.valid)
    assert torch.equal(one.last, other.last)
    assert torch.equal(one.broken, other.broken)
    for name in ("observations", "actions", "outputs", "rewards", "age"):
        assert torch.equal(getattr(one, name)[one.valid], getattr(other, name)[one.valid]), name


@pytest.mark.parametrize("make", [GaussianMLP, Doubled])
@pytest.mark.parametrize("robot", ["HalfCheetah", "Ant"])
def test_threads_change_nothing(robot, make) -> None:
    pytest.importorskip("mujoco", reason="needs the extra `rl`")
    from lightning_maml.rl import envs

    one = rollout(getattr(envs, robot)("velocity", horizon=60, threads=1), make)
    if robot == "Ant":
        assert one.valid.shape[-1] > 60  # some ended early
    environment = getattr(envs, robot)("velocity", horizon=60, threads=3)
    assert len(environment.side_by_side()) == 2
    assert_same(one, rollout(environment, make))
    with torch.inference_mode():
        assert_same(one, rollout(environment, make))


class Counting(Point):
    """Remembers how many episodes each step had; its goals are large, so that many end early."""

    def __init__(self, can_select):
        super().__init__(horizon=20)
        self.can_select, self.counts = can_select, []

    def step(self, state, actions, tasks):
        assert len(state) == len(actions) == len(tasks)
        self.counts.append(len(state))
        moved = super().step(state, actions, tasks)
        return moved._replace(ended=np.all(np.abs(moved.state - tasks) < 0.05, axis=1))

    def select(self, state, which):
        return super().select(state, which) if self.can_select else None


def test_streams_that_are_over_are_left_out() -> None:
    with_select, without = Counting(True), Counting(False)
    one, other = (rollout(e, low=-0.05, high=0.05, tasks=40) for e in (with_select, without))
    assert_same(one, other)
    assert without.counts == [120] * one.valid.shape[-1]
    going = (one.valid.flip(-1).cumsum(-1) > 0).flip(-1).sum(dim=(0, 1))
    assert with_select.counts == going.tolist()
    assert len(set(with_select.counts)) > 4


class Wrong(Point):
    """Gives something else in place of one of the parts of a transition."""

    def __init__(self, part, change):
        super().__init__(horizon=5)
        self.part, self.change = part, change

    def step(self, state, actions, tasks):
        moved = super().step(state, actions, tasks)._asdict()
        return Transition(**moved | {self.part: self.change(moved[self.part])})


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("reward", lambda v: v[:, None], r"`reward` of `Wrong.step`.*\[15\], got.*\[15, 1\]"),
        ("reward", list, r"`reward`.*got list"),
        ("ended", lambda v: v.astype(float), r"`ended`.*bool.*got an array of float64"),
        ("broken", lambda v: False, "`broken`.*got bool"),
        ("observation", lambda v: v[:, :1], r"`observation`.*\[15, 2\], got.*\[15, 1\]"),
        ("observation", lambda v: v * np.nan, "`observation` must be finite"),
        ("reward", lambda v: v * np.nan, "`reward` of `Wrong.step` must be finite.*got nan"),
        ("reward", lambda v: np.where(np.arange(15) == 14, -np.inf, v), "`reward`.*got -inf"),
    ],
)
def test_what_step_has_wrong_is_named(part, change, said) -> None:
    with pytest.raises(ValueError, match=said):
        rollout(Wrong(part, change))


class Untold(Counting):
    """Every other episode is broken at step 3, and the next is over later than the rest; there is
    no reward where an episode is broken or over.
    """

    def __init__(self, instead):
        super().__init__(can_select=False)
        self.instead = instead

    def step(self, state, actions, tasks):
        moved = super().step(state, actions, tasks)
        every_other = np.arange(len(state)) % 2 == 0
        broken = every_other & (len(self.counts) == 3)
        none = broken | ~every_other & (len(self.counts) > self.horizon)
        return moved._replace(broken=broken, reward=np.where(none, self.instead, moved.reward))


def test_rewards_of_steps_that_are_broken_or_not_taken_need_not_be_finite() -> None:
    instead = (0.0, np.nan, np.inf)
    zero, *others = (rollout(Untold(value), low=50.0, high=50.0) for value in instead)
    assert zero.broken.sum() == 8
    assert zero.valid.shape[-1] == 23
    for other in others:
        assert_same(zero, other)
        assert torch.equal(zero.returns, other.returns)


def test_an_environment_without_its_sizes_is_refused() -> None:
    class Bare(Point):
        start_size = None

    with pytest.raises(ValueError, match=r"`environment` must have `start_size`.*None in Bare"):
        MetaPolicy(GaussianMLP(2, 2), Bare())
    with pytest.raises(ValueError, match=r"`environment` must be a .*Environment.*got dict"):
        MetaPolicy(GaussianMLP(2, 2), {})


def test_tasks_of_another_length_are_refused() -> None:
    batch = RLTasks(low=[0.0], high=[1.0]).samplers["train"](0, 2)
    with pytest.raises(ValueError, match=r"2 numbers each \(`task_size` of Point\), got 1"):
        MetaPolicy(GaussianMLP(2, 2), Point()).evaluate(batch)
