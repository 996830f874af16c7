"""Losses of the paper (Eq. 2 and 3) and the metrics reported for them.

The paper prints both losses as sums over examples; the authors' code uses a mean for
regression and, for classification, the sum divided by K. The inner step size alpha acts on
whatever the loss is, so the reduction is part of its name here, never implicit.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error: Eq. 2 with a mean for the sum, as in the authors' code.

    Shapes: ``[examples, ...]`` twice -> scalar.
    """
    return F.mse_loss(prediction, target)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the examples (Eq. 3 for N classes).

    Shapes: ``[examples, n_way]`` and ``[examples]`` -> scalar.
    """
    return F.cross_entropy(logits, labels)


def cross_entropy_n_way(logits: Tensor, labels: Tensor) -> Tensor:
    """N times the mean cross-entropy: over N * K examples, their sum divided by K.

    The authors' classification code scales the loss so, which is why the paper's alpha = 0.4
    at 5-way acts as 2.0 would on a mean.

    Shapes: ``[examples, n_way]`` and ``[examples]`` -> scalar.
    """
    return logits.shape[-1] * F.cross_entropy(logits, labels)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose largest logit is the label's; a non-finite prediction is wrong.

    Shapes: ``[examples, n_way]`` and ``[examples]`` -> scalar.
    """
    correct = (logits.argmax(dim=-1) == labels) & torch.isfinite(logits).all(dim=-1)
    return correct.to(logits.dtype).mean()


LOSSES: dict[str, Loss] = {
    "mse": mse,
    "cross_entropy": cross_entropy,
    "cross_entropy_n_way": cross_entropy_n_way,
}
METRICS: dict[str, Loss] = {"mse": mse, "accuracy": accuracy}
