"""MAML as a plain loop, written from Algorithm 1 alone: the reference that tests compare with."""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_maml.episode import Episode


def naive_meta_gradient(
    model: nn.Module,
    loss: object,
    episode: Episode,
    inner_lr: float,
    inner_steps: int,
    first_order: bool = False,
    adapts: Collection[str] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over tasks of the query loss after adaptation, and its gradient by autograd.

    `adapts` names the parameters that the inner loop changes; None: all.
    """
    theta = dict(model.named_parameters())
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        mean = _mean_query_loss(
            model, loss, theta, episode, inner_lr, inner_steps, first_order, adapts or theta
        )
    grads = torch.autograd.grad(mean, list(theta.values()), allow_unused=True)
    zeros = (
        torch.zeros_like(p) if g is None else g for g, p in zip(grads, theta.values(), strict=True)
    )
    return mean.detach(), dict(zip(theta, zeros, strict=True))


def _mean_query_loss(  # type: ignore[no-untyped-def]
    model, loss, theta, episode, inner_lr, inner_steps, first_order, adapts
):
    total = torch.zeros((), dtype=next(iter(theta.values())).dtype)
    for support_x, support_y, query_x, query_y in zip(*episode, strict=True):
        adapted = theta
        for _ in range(inner_steps):
            support_loss = loss(functional_call(model, adapted, (support_x,)), support_y)
            grads = torch.autograd.grad(
                support_loss, [adapted[name] for name in adapts], create_graph=not first_order
            )
            moved = {
                name: adapted[name] - inner_lr * g for name, g in zip(adapts, grads, strict=True)
            }
            adapted = adapted | moved
        total = total + loss(functional_call(model, adapted, (query_x,)), query_y)
    return total / episode.tasks
