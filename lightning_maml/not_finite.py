"""Says where a meta-gradient that is not finite comes from."""

from collections.abc import Mapping

from torch import Tensor, nn

from lightning_maml.episode import Episode


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """Name and place of the first number that is not finite; None if all are.

    >>> import torch
    >>> first_not_finite({"a": torch.ones(2), "b": torch.tensor([[1.0, torch.nan]])})
    '`b`, nan at [0, 1]'
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            place = (~tensor.isfinite()).nonzero()[0].tolist()
            return f"`{name}`, {tensor[tuple(place)].item()} at {place}"
    return None


def where_not_finite(episode: Episode, learner: nn.Module, remedy: str) -> str:
    """In a sentence or two; `remedy` is for where data and weights are finite.

    Of the buffers only those with NaN are named: infinity may be meant, as in an attention mask.
    """
    parameters = {name.replace("/", "."): p for name, p in learner.named_parameters()}
    buffers = {name: buffer for name, buffer in learner.named_buffers() if buffer.isnan().any()}
    if (found := first_not_finite({**episode._asdict(), **parameters, **buffers})) is not None:
        return f"It comes from {found}."
    grads = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    first = first_not_finite(grads)  # none where they were clipped by value
    gradient = f" (of the gradients the first that is not: {first})" if first else ""
    return f"This batch and the weights are finite{gradient}. {remedy}"
