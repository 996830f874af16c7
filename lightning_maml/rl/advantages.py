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


class _Valid:
    """Where the valid steps of each task are, so that only they are carried on.

    Shapes: `valid` is ``[tasks, slots, T]``; N is the largest count of valid steps of a task.
    """

    def __init__(self, valid: Tensor) -> None:
        flat = valid.flatten(1)
        count = flat.sum(dim=1, keepdim=True)
        self.shape, n = valid.shape, max(int(count.max()), 1)
        self.whole = bool(flat.all())  # nothing to leave out
        self.full = torch.arange(n) < count
        self.weight = self.full.double()
        # Stable: valid steps to the front, in their order.
        self.place = (~flat).byte().argsort(dim=1, stable=True)[:, :n]

    def kept(self, values: Tensor) -> Tensor:
        """``[tasks, slots, T, ...] -> [tasks, N, ...]``; zeros where it is filled up, since no
        weight keeps what is not finite out of a sum.
        """
        flat = values.flatten(1, 2)
        if self.whole:
            return flat
        picked = flat[torch.arange(len(flat))[:, None], self.place]
        return picked.where(self.full.view(*self.full.shape, *[1] * (picked.ndim - 2)), 0)

    def spread(self, values: Tensor) -> Tensor:
        """``[tasks, N] -> [tasks, slots, T]``, 0 where nothing was kept."""
        if self.whole:
            return values.view(self.shape)
        everywhere = values.new_zeros(len(values), self.shape[1] * self.shape[2])
        return everywhere.scatter(1, self.place, values * self.weight).view(self.shape)


def samples(
    paths: Trajectories, discount: float, gae_lambda: float, pooled: bool = False
) -> Samples:
    """Fit the baseline, and make of each valid step an example for the policy losses.

    N is the largest number of valid steps of a task; those of the others are filled up with
    examples of weight 0. Baseline and normalisation are those of each task; `pooled`: of all tasks
    together.
    """
    valid = _Valid(paths.valid)
    rewards = paths.rewards.where(paths.valid, 0)
    returns = valid.kept(discounted(rewards, paths.last, discount))
    x, age, weight = valid.kept(paths.observations), valid.kept(paths.age), valid.weight

    def joined(values: Tensor) -> Tensor:
        """``[tasks, N, ...]``, or one task of all."""
        return values.flatten(0, 1)[None] if pooled else values

    known = joined(linear_baseline.features(x.double(), age.double()))
    coefficients = linear_baseline.fit(known, joined(returns), joined(weight))
    values = linear_baseline.predict(coefficients, known)
    explained = _explained(joined(returns), values, joined(weight))
    values = valid.spread(values.reshape(weight.shape))
    estimates = valid.kept(advantages(rewards, values, paths.last, discount, gae_lambda))
    advantage = normalised(joined(estimates), joined(weight)).reshape(weight.shape)
    outputs = valid.kept(paths.outputs)
    advantage, weight = advantage.to(outputs.dtype), weight.to(outputs.dtype)
    y = Targets(valid.kept(paths.actions), advantage, weight, outputs).packed()
    return Samples(Episode(x, y, x, y), explained)


def _explained(returns: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """1 - variance of the errors over the variance of the returns, by task."""

    def variance(v: Tensor) -> Tensor:
        mean = (v * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
        return ((v - mean) ** 2 * weight).sum(-1)

    return 1 - variance(returns - values) / (variance(returns) + 1e-8)
