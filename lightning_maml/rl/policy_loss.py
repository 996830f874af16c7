"""The losses of Algorithm 3 as functions of a policy's output: what a task's samples are made of.

A task's samples are ``x [N, observation_size]`` and ``y [N, 3A + 2]``, A the size of an action:
for each the action, its advantage, its weight (1, or 0 where it only fills up), and the output of
the policy that sampled it. So a task of samples is an `Episode` like any other, and
`inner_loop.inner_step` adapts to it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_maml.episode import Episode
from lightning_maml.rl.policy import kl, log_prob


class Targets(NamedTuple):
    """The columns of y.

    Shapes: ``action [..., A]``, ``advantage [...]``, ``weight [...]``, ``sampled_by [..., 2A]``.
    """

    action: Tensor
    advantage: Tensor
    weight: Tensor
    sampled_by: Tensor

    def packed(self) -> Tensor:
        """As one tensor, ``[..., 3A + 2]``."""
        columns = [self.action, self.advantage[..., None], self.weight[..., None], self.sampled_by]
        return torch.cat(columns, dim=-1)


def targets(y: Tensor) -> Targets:
    """The columns of ``y [..., 3A + 2]``."""
    size = (y.shape[-1] - 2) // 3
    return Targets(y[..., :size], y[..., size], y[..., size + 1], y[..., size + 2 :])


def filled_up(samples: Episode, n: int) -> Episode:
    """Samples ``[tasks, N, ...]`` with zeros, so weights of 0, after them: ``[tasks, n, ...]``."""
    if samples.query_x.shape[1] == n:
        return samples
    x, y = (F.pad(v, (0, 0, 0, n - v.shape[1])) for v in (samples.query_x, samples.query_y))
    return Episode(x, y, x, y)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum()


def reinforce(output: Tensor, y: Tensor) -> Tensor:
    """-mean(log pi(a) A): the inner loss (Eq. 4 with advantages), a scalar."""
    given = targets(y)
    return -_mean(log_prob(output, given.action) * given.advantage, given.weight)


def surrogate(output: Tensor, y: Tensor) -> Tensor:
    """-mean(pi(a) / pi_sampled_by(a) A): what the meta-update lowers, a scalar."""
    given = targets(y)
    old = log_prob(given.sampled_by, given.action)
    ratio = torch.exp(log_prob(output, given.action) - old)
    return -_mean(ratio * given.advantage, given.weight)


def mean_kl(output: Tensor, y: Tensor) -> Tensor:
    """mean KL(policy that sampled || policy): what the meta-update keeps small, a scalar."""
    given = targets(y)
    return _mean(kl(given.sampled_by, output), given.weight)
