"""Gaussian policies (Sec. 5.3): a policy is any module that returns mean and log-std.

Its output is one tensor, ``[N, 2 * action_size]``: the means, then the logarithms of the standard
deviations. All functions here take such outputs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_maml.argument_types import check_counts, check_positive, check_types
from lightning_maml.models.mlp import MLP


class GaussianMLP(nn.Module):
    """Two hidden layers of 100 with ReLU give the mean; the log-std is a parameter of its own.

    Parameters ``mean.*`` and ``log_std``. The weights start Xavier-uniform, the log-std at 0.

    Args:
        observation_size: size of an observation.
        action_size: size of an action.
        hidden: sizes of the hidden layers.
        init_std: standard deviation at the start, on the scale where -1 and 1 are the bounds.
        min_std: smaller ones count as this.

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int] = (100, 100),
        init_std: float = 1.0,
        min_std: float = 1e-6,
    ) -> None:
        check_types(GaussianMLP.__init__, locals())
        check_counts(observation_size=(observation_size, 1), action_size=(action_size, 1))
        super().__init__()
        check_positive(init_std=init_std, min_std=min_std)
        self.mean = MLP(observation_size, action_size, hidden, init="xavier_uniform")
        self.log_std = nn.Parameter(torch.empty(action_size))
        self.init_log_std, self.min_log_std = math.log(init_std), math.log(min_std)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.mean.reset_parameters()
        nn.init.constant_(self.log_std, self.init_log_std)

    def forward(self, observation: Tensor) -> Tensor:
        """``[N, observation_size] -> [N, 2 * action_size]``."""
        mean = self.mean(observation)
        return torch.cat([mean, self.log_std.clamp(min=self.min_log_std).expand_as(mean)], dim=-1)


def log_prob(output: Tensor, action: Tensor) -> Tensor:
    """Log-density of actions: ``[..., 2A], [..., A] -> [...]``."""
    mean, log_std = output.chunk(2, dim=-1)
    z = (action - mean) * torch.exp(-log_std)
    return -(0.5 * z * z + log_std + 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def kl(old: Tensor, new: Tensor) -> Tensor:
    """KL(old || new) of two diagonal Gaussians: ``[..., 2A], [..., 2A] -> [...]``."""
    (old_mean, old_log_std), (mean, log_std) = old.chunk(2, dim=-1), new.chunk(2, dim=-1)
    squares = torch.exp(2 * old_log_std) + (old_mean - mean) ** 2
    return (log_std - old_log_std + 0.5 * squares * torch.exp(-2 * log_std) - 0.5).sum(dim=-1)
