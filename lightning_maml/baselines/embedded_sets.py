"""What methods share that solve a task from vectors of its examples, without changing weights."""

from collections.abc import Callable
from functools import wraps

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.models.support_statistics import transductive_norms

# T tasks, S support and Q query examples of a task, D features, N classes


def class_count(labels: Tensor) -> int:
    """Number of classes of tasks whose support labels ``[T, S]`` hold each of 0 .. N - 1."""
    return int(labels.max()) + 1


def checked_encoder(encoder: nn.Module) -> nn.Module:
    """The encoder itself: it embeds examples of several tasks at once.

    Raises:
        ValueError: naming `encoder`, if it would normalise them together in evaluation, too.
    """
    for name, norm in transductive_norms(encoder).items():
        raise ValueError(
            "`encoder` must not normalise tasks together, got batch norm without running "
            f"statistics, {name!r} ({type(norm).__name__}); use torch's with "
            "`track_running_stats=True`, and load the weights of a `MetaLearner`'s network "
            "into one made anew."
        )
    return encoder


def embedded(
    encoder: nn.Module, support_x: Tensor, query_x: Tensor, features: int | None = None
) -> tuple[Tensor, Tensor]:
    """Embeddings of all examples, made in one call; `features`: D, where it must be known before.

    Shapes: ``support_x [T, S, ...]``, ``query_x [T, Q, ...]`` -> ``[T, S, D]``, ``[T, Q, D]``.

    Raises:
        ValueError: naming `encoder`, if it does not return a vector for each example, or
            `features`, if these are of another length.
    """
    examples = torch.cat([support_x, query_x], dim=1)
    vectors = encoder(examples.flatten(0, 1))
    if vectors.ndim != 2:
        raise ValueError(
            "`encoder` must return vectors [examples, features], got shape "
            f"{list(vectors.shape)} for input of shape {list(examples.flatten(0, 1).shape)}."
        )
    if features not in (None, vectors.shape[1]):
        raise ValueError(
            f"`features` must be {vectors.shape[1]}, as the encoder returns, got {features}."
        )
    support, query = vectors.unflatten(0, examples.shape[:2]).split(
        [support_x.shape[1], query_x.shape[1]], dim=1
    )
    return support, query


def in_float32(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The same, computed in float32 at least, whatever the precision of the encoder.

    Mixed precision would round a sum of 1,600 squares to a multiple of 8, where the softmax over
    classes depends on differences of 1.
    """

    @wraps(function)
    def exact(one: Tensor, other: Tensor) -> Tensor:
        with torch.autocast(one.device.type, enabled=False):
            return function(at_least_float32(one), at_least_float32(other))

    return exact


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision as float32, others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@in_float32
def squared_distances(query: Tensor, others: Tensor) -> Tensor:
    """Squared Euclidean distances: ``[T, Q, D]``, ``[T, S, D]`` -> ``[T, Q, S]``."""
    return (query[:, :, None] - others[:, None]).square().sum(dim=-1)


@in_float32
def inner_products(query: Tensor, others: Tensor) -> Tensor:
    """``[..., Q, D]``, ``[..., S, D]`` -> ``[..., Q, S]``."""
    return query @ others.mT


@in_float32
def cosines(query: Tensor, others: Tensor) -> Tensor:
    """Of the angles between vectors: ``[..., Q, D]``, ``[..., S, D]`` -> ``[..., Q, S]``."""
    return inner_products(F.normalize(query, dim=-1), F.normalize(others, dim=-1))


def by_class(values: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Values of the support examples of each class, minus infinity at those of others: to reduce.

    Shapes: ``values [T, Q, S]``, ``labels [T, S]`` -> ``[T, Q, S, N]``. A label outside
    0 .. N - 1 belongs to no class.
    """
    of_class = labels[..., None] == torch.arange(n_way, device=labels.device)
    return values[..., None].masked_fill(~of_class[:, None], -torch.inf)


def negative_log_likelihood(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """Mean over all query examples: ``[T, Q, N]``, ``[T, Q]`` -> scalar."""
    return F.nll_loss(log_probabilities.flatten(0, 1), labels.flatten())
