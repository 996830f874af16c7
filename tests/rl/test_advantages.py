"""Returns, advantages and the baseline, by hand and against least squares."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from lightning_maml.episode import Episode
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.rl import linear_baseline
from lightning_maml.rl.advantages import advantages, discounted, normalised, samples
from lightning_maml.rl.policy import GaussianMLP
from lightning_maml.rl.policy_engine import PolicyEngine
from lightning_maml.rl.policy_loss import targets
from lightning_maml.rl.trajectories import Trajectories
from lightning_maml.step_sizes import StepSizes


def no_end(*shape):
    return torch.zeros(shape, dtype=torch.bool)


def test_returns_by_hand() -> None:
    last = torch.tensor([False, False, True])
    assert discounted(torch.ones(3), last, 0.5).tolist() == [1.75, 1.5, 1.0]
    two = torch.tensor([False, True, True])
    assert discounted(torch.ones(3), two, 0.5).tolist() == [1.5, 1.0, 1.0]


def test_advantage_at_lambda_one_is_return_minus_value() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 4, 9, generator=generator, dtype=torch.float64)
    last = no_end(4, 9)
    last[:, [3, 8]] = True
    expected = discounted(rewards, last, 0.9) - values
    torch.testing.assert_close(advantages(rewards, values, last, 0.9, 1.0), expected)
    # lambda 0: one step ahead, and nothing after the end
    ahead = torch.where(last[:, :-1], 0.0, values[:, 1:])
    one = rewards[:, :-1] + 0.9 * ahead - values[:, :-1]
    torch.testing.assert_close(advantages(rewards, values, last, 0.9, 0.0)[:, :-1], one)


def test_baseline_is_least_squares_and_padding_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    observation = 6 * torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    age = torch.arange(50, dtype=torch.float64).expand(2, 50)
    y = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    x = linear_baseline.features(observation, age)
    weight = torch.ones(2, 50, dtype=torch.float64)
    weight[1, 40:] = 0
    found = linear_baseline.predict(linear_baseline.fit(x, y, weight), x)
    for task, count in ((0, 50), (1, 40)):
        o = np.clip(observation[task, :count].numpy(), -10, 10)
        t = age[task, :count, None].numpy() / 100
        a = np.hstack([o, o**2, t, t**2, t**3, np.ones_like(t)])
        solved = np.linalg.solve(a.T @ a + 1e-5 * np.eye(10), a.T @ y[task, :count].numpy())
        np.testing.assert_allclose(found[task, :count].numpy(), a @ solved, rtol=1e-6, atol=1e-8)


def test_clipped_features_and_a_singular_baseline_are_finite() -> None:
    x = linear_baseline.features(torch.tensor([[100.0]]), torch.tensor([50.0]))
    assert x.tolist() == [[10.0, 100.0, 0.5, 0.25, 0.125, 1.0]]
    zeros = torch.zeros(1, 4, 6, dtype=torch.float64)
    assert torch.isfinite(linear_baseline.fit(zeros, zeros[..., 0], zeros[..., 0])).all()


def test_ridge_grows_until_it_is_felt() -> None:
    """1e-5 is lost beside 1e12, and the matrix is singular; beside 1e24 nothing helps."""
    one = torch.ones(1, 1, dtype=torch.float64)
    for size, found in ((1e6, 1.0), (1e12, 0.0)):
        x = torch.full((1, 1, 2), size, dtype=torch.float64)
        predicted = linear_baseline.predict(linear_baseline.fit(x, one, one), x)
        assert predicted.item() == pytest.approx(found, abs=1e-3)


def test_baselines_of_many_features_are_right_on_several_threads() -> None:
    """The ant has 254; torch 2.14's batched `solve` is wrong there on more than one thread."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 400, 254, generator=generator, dtype=torch.float64)
    y = torch.randn(3, 400, generator=generator, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = linear_baseline.fit(x, y, torch.ones_like(y))
    finally:
        torch.set_num_threads(before)
    for task in range(3):
        a, b = x[task].numpy(), y[task].numpy()
        expected = np.linalg.solve(a.T @ a + 1e-5 * np.eye(254), a.T @ b)
        np.testing.assert_allclose(found[task].numpy(), expected, rtol=1e-8, atol=1e-10)


def paths(valid, rewards):
    tasks, streams, steps = valid.shape
    generator = torch.Generator().manual_seed(2)
    last = no_end(tasks, streams, steps)
    last[..., -1] = True
    return Trajectories(
        observations=torch.randn(tasks, streams, steps, 2, generator=generator),
        actions=torch.randn(tasks, streams, steps, 1, generator=generator),
        outputs=torch.zeros(tasks, streams, steps, 2),
        rewards=rewards,
        age=torch.arange(steps).expand(tasks, streams, steps),
        last=last,
        valid=valid,
        broken=torch.zeros(tasks, dtype=torch.int64),
    )


def test_samples_are_normalised_per_task_or_over_all() -> None:
    rewards = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(3)).double()
    rewards[1] += 10
    given = paths(torch.ones(2, 3, 5, dtype=torch.bool), rewards)
    for pooled in (False, True):
        advantage = samples(given, 0.9, 1.0, pooled).episode.query_y[..., 1].double()
        groups = advantage.reshape(1, -1) if pooled else advantage
        assert advantage.shape == (2, 15)
        torch.testing.assert_close(groups.mean(-1), 0 * groups[:, 0], atol=1e-6, rtol=0)
        torch.testing.assert_close(groups.std(-1, correction=0), 1 + 0 * groups[:, 0])
        apart = (advantage[1].mean() - advantage[0].mean()).abs() > 0.1
        assert apart == pooled  # one baseline cannot tell the tasks apart


def test_explained_variance_is_that_of_least_squares() -> None:
    generator = torch.Generator().manual_seed(4)
    rewards = torch.randn(2, 3, 20, generator=generator).double()
    valid = torch.ones(2, 3, 20, dtype=torch.bool)
    valid[1, :, 15:] = False
    given = paths(valid, rewards)
    given.last[1, :, 14] = True
    explained = samples(given, 0.9, 1.0).explained_variance
    for task, steps in ((0, 20), (1, 15)):
        returns = discounted(rewards, given.last, 0.9)[task, :, :steps].reshape(-1)
        seen = given.observations[task, :, :steps].double().reshape(-1, 2)
        x = linear_baseline.features(seen, torch.arange(steps).double().repeat(3)).numpy()
        y = returns.numpy()
        solved = np.linalg.solve(x.T @ x + 1e-5 * np.eye(8), x.T @ y)
        share = np.var(y - x @ solved) / np.var(y)
        assert explained[task].item() == pytest.approx(1 - share, abs=1e-6)
        assert 0.1 < share < 0.99


def test_returns_are_nan_where_an_action_was_not_finite_and_the_padding_is_left_out() -> None:
    rewards = torch.ones(2, 2, 4, dtype=torch.float64)
    valid = torch.ones(2, 2, 4, dtype=torch.bool)
    rewards[1, 0, -1], valid[1, 0, -1] = torch.nan, False
    given = paths(valid, rewards)
    assert given.returns[0] == 4
    assert given.returns[1].isnan()
    assert torch.isfinite(samples(given, 0.9, 1.0).episode.query_y).all()


def test_padding_is_cleared_and_leaves_the_rest_as_it_is() -> None:
    """What a broken robot saw last may be huge: its square times no weight is not 0."""
    valid = torch.ones(2, 2, 4, dtype=torch.bool)
    valid[0, 1, 2:] = False
    given = paths(valid, torch.randn(2, 2, 4).double())
    given.last[0, 1, 1] = True
    wild = given._replace(
        **{name: getattr(given, name).clone() for name in ("observations", "actions", "outputs")}
    )
    for values in (wild.observations, wild.actions, wild.outputs):
        values[~valid] = 1e30
    assert torch.equal(wild.observations[valid], given.observations[valid])
    found, expected = (samples(p, 0.9, 1.0).episode for p in (wild, given))
    assert torch.equal(found.query_x, expected.query_x)
    assert torch.equal(found.query_y, expected.query_y)
    assert not found.query_y[0].view(2, 4, -1)[1, 2:].any()
    assert found.query_y[0].view(2, 4, -1)[1, :2].any(dim=-1).all()


def test_normalised_ignores_what_has_no_weight() -> None:
    values = torch.tensor([[1.0, 3.0, 100.0]])
    found = normalised(values, torch.tensor([[1.0, 1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, 1.0, 0.0]]))


def ended_early():
    """Three tasks whose streams end at 12 different places, one with a lost step inside."""
    ends = torch.tensor([[6, 9, 11, 4], [12, 7, 8, 3], [5, 5, 5, 6]])
    valid = torch.arange(12) < ends[..., None]
    valid[0, 1, 4] = False
    rewards = torch.randn(3, 4, 12, generator=torch.Generator().manual_seed(4)).double()
    last = torch.arange(12) == ends[..., None] - 1
    last[0, 1, 4] = last[1, 0, 5] = True
    return paths(valid, rewards)._replace(last=last)


def advantages_by_loops(given, discount, gae_lambda):
    """Of the valid steps of each task, in order, before they are normalised."""
    for task in range(len(given.valid)):
        where = [tuple(place) for place in given.valid[task].nonzero().tolist()]
        o = np.array([given.observations[task][w].tolist() for w in where])
        t = np.array([[given.age[task][w].item() / 100] for w in where])
        a = np.hstack([o, o**2, t, t**2, t**3, np.ones_like(t)])  # no observation is above 10
        returns, found, follows = {}, {}, {}
        for s, k in reversed(where):
            on = (s, k + 1) in returns and not given.last[task, s, k]
            after = returns[s, k + 1] if on else 0.0
            returns[s, k] = given.rewards[task, s, k].item() + discount * after
        y = np.array([returns[w] for w in where])
        value = dict(
            zip(where, a @ np.linalg.solve(a.T @ a + 1e-5 * np.eye(8), a.T @ y), strict=True)
        )
        for s, k in reversed(where):
            on = (s, k + 1) in value and not given.last[task, s, k]
            error = given.rewards[task, s, k].item() - value[s, k]
            error += discount * value[s, k + 1] if on else 0.0
            follows[s, k] = error + (discount * gae_lambda * follows[s, k + 1] if on else 0.0)
            found[s, k] = follows[s, k]
        yield where, np.array([found[w] for w in where])


def test_only_valid_steps_are_kept_in_their_order() -> None:
    given = ended_early()
    made = samples(given, 0.9, 0.8).episode
    counts = given.valid.sum(dim=(1, 2)).tolist()
    assert made.query_x.shape[1] == max(counts) == 30
    for task, (where, expected) in enumerate(advantages_by_loops(given, 0.9, 0.8)):
        x, y = made.query_x[task], targets(made.query_y[task])
        assert y.weight.tolist() == [1.0] * counts[task] + [0.0] * (30 - counts[task])
        s, k = torch.tensor(where).T
        assert torch.equal(x[: counts[task]], given.observations[task, s, k])
        assert torch.equal(y.action[: counts[task]], given.actions[task, s, k])
        assert torch.equal(y.sampled_by[: counts[task]], given.outputs[task, s, k])
        expected = (expected - expected.mean()) / (expected.std() + 1e-8)
        np.testing.assert_allclose(y.advantage[: counts[task]], expected, atol=1e-5)


@torch.no_grad()
def test_leaving_the_rest_out_changes_no_loss_gradient_or_product() -> None:
    """Against the same samples where they were in the streams, with anything in between."""
    given, generator = ended_early(), torch.Generator().manual_seed(5)
    kept = samples(given, 0.9, 0.8).episode
    x, y = (torch.randn(3, 48, v.shape[-1], generator=generator) for v in kept[:2])
    y[..., 2] = 0  # the weight
    for task in range(3):
        count = int(given.valid[task].sum())
        place = given.valid[task].flatten().nonzero()[:, 0]
        x[task, place], y[task, place] = kept.query_x[task, :count], kept.query_y[task, :count]
    policy = GaussianMLP(2, 1, (5, 5)).double()
    loop, engine = InnerLoop(1, StepSizes(0.1)), PolicyEngine(policy, tasks_at_once=3)
    direction = torch.randn(len(parameters_to_vector(engine.parameters())), generator=generator)
    found = []
    for episode in (kept, Episode(x, y, x, y)):
        once = Episode(*(v.double() for v in episode))
        problem = engine.problem(loop, [once, once], lambda vector: vector)
        gradient, loss = problem.gradient()
        product = problem.fisher_product(direction.double())
        found.append([gradient, product, torch.tensor([loss, *problem.loss_and_kl()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert one.abs().max() > 1e-3


def test_pooled_statistics_are_those_of_all_valid_steps() -> None:
    y = targets(samples(ended_early(), 0.9, 0.8, pooled=True).episode.query_y)
    one = y.advantage[y.weight == 1].double()
    assert len(one) == ended_early().valid.sum()
    assert abs(one.mean()) < 1e-6
    assert abs(one.std(correction=0) - 1) < 1e-6
    assert not y.advantage[y.weight == 0].any()
