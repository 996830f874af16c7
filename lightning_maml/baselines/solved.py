"""From labelled examples to a module that answers for new ones, where no weights are adapted."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from lightning_maml.adapted import (
    Adapted,
    Labels,
    Statistics,
    as_classes,
    check_classes,
    check_statistics,
)
from lightning_maml.models.support_statistics import transductive_norms


class Solved(nn.Module):
    """A method that has seen the support set of one task.

    Args:
        method: an `EpisodicMethod`; a copy is kept.
        support_x: ``[S, ...]``.
        support_y: class numbers ``[S]``.
    """

    support_x: Tensor
    support_y: Tensor

    def __init__(self, method: nn.Module, support_x: Tensor, support_y: Tensor) -> None:
        super().__init__()
        self.method = deepcopy(method)
        self.register_buffer("support_x", support_x)
        self.register_buffer("support_y", support_y)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities of the classes: ``[N, ...]`` -> ``[N, classes]``."""
        output: Tensor = self.method(self.support_x[None], self.support_y[None], x[None])
        return output[0]


@torch.no_grad()
def solve(
    method: nn.Module, images: Tensor, labels: Labels, statistics: Statistics = "support"
) -> Adapted:
    """What `method` says of one task's new examples, as a module; see `fast_adapt` of adapted.py.

    Args:
        method: an `EpisodicMethod`.
        images: the support examples ``[S, ...]``.
        labels: their classes ``[S]``, names or integers.
        statistics: of batch norm; "support" only for a method that has none of each batch's.

    Raises:
        ValueError: naming the argument that does not fit the method.
    """
    check_statistics(statistics)
    targets, class_names = as_classes(images, labels)
    if statistics == "support" and (norms := transductive_norms(method)):
        raise ValueError(
            f"`statistics` must be 'transductive' for {type(method).__name__} with a batch norm of "
            f"each batch's statistics, {next(iter(norms))!r}, got 'support'."
        )
    solved = Solved(method, images, targets.to(images.device)).eval()
    check_classes(class_names, solved(images[:2]).shape[1], "labels", remedy="")
    return Adapted(solved, class_names).eval()
