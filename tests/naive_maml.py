"""MAML as a plain loop, written from Algorithm 1 alone: the reference that tests compare with."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_maml.episode import Episode


def naive_meta_gradient(
    model: nn.Module,
    loss: object,
    episode: Episode,
    inner_lr: float,
    inner_steps: int,
    first_order: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over tasks of the query loss after adaptation, and its gradient by autograd."""
    theta = dict(model.named_parameters())
    total = torch.zeros((), dtype=next(iter(theta.values())).dtype)
    for support_x, support_y, query_x, query_y in zip(*episode, strict=True):
        adapted = theta
        for _ in range(inner_steps):
            support_loss = loss(functional_call(model, adapted, (support_x,)), support_y)
            grads = torch.autograd.grad(
                support_loss, list(adapted.values()), create_graph=not first_order
            )
            adapted = {
                name: p - inner_lr * g
                for (name, p), g in zip(adapted.items(), grads, strict=True)
            }
        total = total + loss(functional_call(model, adapted, (query_x,)), query_y)
    mean = total / episode.tasks
    return mean.detach(), dict(
        zip(theta, torch.autograd.grad(mean, list(theta.values())), strict=True)
    )
