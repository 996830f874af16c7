"""Returns, advantages and the baseline, by hand and against least squares."""

import numpy as np
import pytest
import torch

from lightning_maml.rl import linear_baseline
from lightning_maml.rl.advantages import advantages, discounted, normalised, samples
from lightning_maml.rl.trajectories import Trajectories


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
