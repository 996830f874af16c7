"""Returns and advantages of trajectories, and the samples that the losses take."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_maml.episode import Episode
from lightning_maml.rl import linear_baseline
from lightning_maml.rl.policy_loss import Targets
from lightning_maml.rl.trajectories import Trajectories


class Samples(NamedTuple):
    """A batch of trajectories as the policy losses take it.

    Attributes:
        episode: x and y of each task (policy_loss.py), ``[tasks, N, ...]``; support and query are
            the same.
        explained_variance: of the returns by the baseline, ``[tasks]``.
    """

    episode: Episode
    explained_variance: Tensor


def discounted(rewards: Tensor, last: Tensor, factor: float) -> Tensor:
    """Sum of what follows in the same episode, each step later times `factor`.

    Shapes: ``[..., T]`` each; `last` marks the last step of an episode.

    >>> discounted(torch.ones(3), torch.tensor([False, False, True]), 0.5)
    tensor([1.7500, 1.5000, 1.0000])
    """
    result = torch.empty_like(rewards)
    follows = torch.zeros_like(rewards[..., 0])
    for t in reversed(range(rewards.shape[-1])):
        follows = rewards[..., t] + factor * follows * ~last[..., t]
        result[..., t] = follows
    return result


def advantages(
    rewards: Tensor, values: Tensor, last: Tensor, discount: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates (Schulman et al. 2016); lambda 1: return minus value.

    After the last step of an episode the value counts as 0. Shapes: ``[..., T]`` each.
    """
    following = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    errors = rewards + discount * following * ~last - values
    return discounted(errors, last, discount * gae_lambda)


def normalised(values: Tensor, weight: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 in each task, over what has weight: ``[tasks, N]``."""
    count = weight.sum(dim=-1, keepdim=True)
    centred = values - (values * weight).sum(dim=-1, keepdim=True) / count
    deviation = ((centred**2 * weight).sum(dim=-1, keepdim=True) / count).sqrt()
    return centred * weight / (deviation + 1e-8)


def samples(
    paths: Trajectories, discount: float, gae_lambda: float, pooled: bool = False
) -> Samples:
    """Fit the baseline, and make of each step an example for the policy losses.

    Baseline and normalisation are those of each task; `pooled`: of all tasks together.
    """
    paths = _without_padding(paths)
    tasks = len(paths.valid)
    weight = paths.valid.double()
    returns = discounted(paths.rewards, paths.last, discount)

    def flat(values: Tensor) -> Tensor:
        """``[tasks, slots, T, ...] -> [tasks, N, ...]``, or one task of all."""
        return values.reshape(1 if pooled else tasks, -1, *values.shape[3:])

    x = flat(linear_baseline.features(paths.observations.double(), paths.age.double()))
    coefficients = linear_baseline.fit(x, flat(returns), flat(weight))
    values = linear_baseline.predict(coefficients, x)
    values = values.reshape(returns.shape)
    estimates = advantages(paths.rewards, values, paths.last, discount, gae_lambda)
    advantage = normalised(flat(estimates), flat(weight)).reshape(weight.shape)
    dtype = paths.outputs.dtype
    y = Targets(paths.actions, advantage.to(dtype), weight.to(dtype), paths.outputs).packed()
    x, y = (v.reshape(tasks, -1, v.shape[-1]) for v in (paths.observations, y))
    explained = _explained(flat(returns), flat(values), flat(weight))
    return Samples(Episode(x, y, x, y), explained)


def _without_padding(paths: Trajectories) -> Trajectories:
    """Zeros where nothing is valid: no weight keeps numbers that overflow out of a sum."""

    def cleared(values: Tensor) -> Tensor:
        return values.where(paths.valid[..., None], 0)

    return paths._replace(
        observations=cleared(paths.observations),
        actions=cleared(paths.actions),
        outputs=cleared(paths.outputs),
        rewards=paths.rewards.where(paths.valid, 0),
    )


def _explained(returns: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """1 - variance of the errors over the variance of the returns, by task."""

    def variance(v: Tensor) -> Tensor:
        mean = (v * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
        return ((v - mean) ** 2 * weight).sum(-1)

    return 1 - variance(returns - values) / (variance(returns) + 1e-8)
