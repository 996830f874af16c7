"""Prototypical networks (Snell, Swersky, Zemel, 2017): the nearest of learned class means."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.argument_types import check_positive, check_types
from lightning_maml.baselines.embedded_sets import (
    checked_encoder,
    class_count,
    embedded,
    in_float32,
    negative_log_likelihood,
    squared_distances,
)
from lightning_maml.episode import Episode


@in_float32
def prototypes(support: Tensor, labels: Tensor) -> Tensor:
    """Mean embedding of the support examples of each class (Eq. 1).

    Shapes: ``support [T, S, D]``, ``labels [T, S]`` -> ``[T, N, D]``.
    """
    one_hot = F.one_hot(labels, class_count(labels)).to(support)
    return torch.einsum("tsn,tsd->tnd", one_hot, support) / one_hot.sum(dim=1)[..., None]


class PrototypicalNets(nn.Module):
    """p(y = n | x) = softmax over classes of - |f(x) - c_n|^2 (Eq. 2), c_n the prototypes.

    Args:
        encoder: f, any module from examples to vectors.
        scale: what squared distances are multiplied by, 1 as in the paper (metric scaling, Oreshkin
            et al., 2018). Of 1,600 features they start in the hundreds, and with 1 training begins
            by making them small.

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(self, encoder: nn.Module, scale: float = 1.0) -> None:
        check_types(PrototypicalNets.__init__, locals())
        check_positive(scale=scale)
        super().__init__()
        self.encoder, self.scale = checked_encoder(encoder), scale

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Log-probabilities of the classes, ``[T, Q, N]``."""
        support, query = embedded(self.encoder, support_x, query_x)
        distances = squared_distances(query, prototypes(support, support_y))
        return (-self.scale * distances).log_softmax(dim=-1)

    def training_loss(self, episode: Episode) -> Tensor:
        """Negative log-probability of the right class, mean over query examples."""
        return negative_log_likelihood(self(*episode[:3]), episode.query_y)
