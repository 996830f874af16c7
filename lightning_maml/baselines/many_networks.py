"""Many networks, each trained on a task of its own from a start of its own (App. C.1).

Knows parameters and a loss; nothing of Lightning. The averages of the appendix differ in one
value only, what the penalty pulls towards (`Pull`).
"""

# Annotations stay strings: torch.compile cannot evaluate those of the nested functions.
from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from lightning_maml.episode import Episode
from lightning_maml.inner_loop import Params

NetworkLoss = Callable[[Params, Tensor, Tensor], Tensor]
"""``(parameters of one network, x, y) -> scalar``."""

BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam


@dataclass(frozen=True)
class Recipe:
    """How each network is trained.

    Attributes:
        lr: step size of Adam.
        target: a network is done once its held-out loss is below this (the paper's 0.02).
        max_steps: give up after so many steps (rounded up to `check_every`).
        check_every: steps between two looks at the held-out loss.
        min_steps: no network is done before so many steps: it gives a penalty time to act.

    Raises:
        ValueError: naming the value that is out of range.
    """

    lr: float = 0.01
    target: float = 0.02
    max_steps: int = 5000
    check_every: int = 5
    min_steps: int = 0

    def __post_init__(self) -> None:
        for name, value in (("training_lr", self.lr), ("target_loss", self.target)):
            if not 0 < value < float("inf"):
                raise ValueError(f"`{name}` must be a finite number > 0, got {value}.")
        if self.max_steps < 1:
            raise ValueError(f"`max_training_steps` must be at least 1, got {self.max_steps}.")
        if not 0 <= self.min_steps <= self.max_steps:
            raise ValueError(
                f"`min_training_steps` must be 0 to {self.max_steps} (`max_training_steps`), "
                f"got {self.min_steps}."
            )


class Pull(NamedTuple):
    """The penalty ``strength * ||theta - anchor||^2``; strength 0: none.

    Shapes: ``strength`` scalar, ``anchor`` as the parameters of one network.
    """

    strength: Tensor
    anchor: Params


class Adam(NamedTuple):
    """State of Adam (Kingma and Ba, 2015), elementwise, so of all networks at once."""

    step: Tensor
    first: Params
    second: Params

    @classmethod
    def start(cls, theta: Params) -> Adam:
        """Before the first step."""
        zeros = [{name: torch.zeros_like(p) for name, p in theta.items()} for _ in range(2)]
        return cls(next(iter(theta.values())).new_zeros(()), *zeros)

    def update(self, theta: Params, grads: Params, lr: float) -> tuple[Params, Adam]:
        """One step."""
        step = self.step + 1
        first = {n: BETAS[0] * m + (1 - BETAS[0]) * grads[n] for n, m in self.first.items()}
        second = {n: BETAS[1] * v + (1 - BETAS[1]) * grads[n] ** 2 for n, v in self.second.items()}
        scale = lr / (1 - BETAS[0] ** step)
        correction = (1 - BETAS[1] ** step).sqrt()
        moved = {
            n: (p - scale * first[n] / (second[n].sqrt() / correction + EPS)).to(p.dtype)
            for n, p in theta.items()
        }
        return moved, Adam(step, first, second)


class Trained(NamedTuple):
    """Networks when they were first seen below the target, or as they were when time was up.

    Shapes: parameters ``[networks, ...]``, the others ``[networks]``. `steps` is 0 where the
    target was not reached.
    """

    theta: Params
    loss: Tensor
    steps: Tensor


Block = Callable[[Params, Adam, Pull, Episode], tuple[Params, Adam, Tensor]]


def block_of_steps(loss: NetworkLoss, recipe: Recipe) -> Block:
    """`recipe.check_every` steps of Adam on all networks, then their held-out losses.

    Worth compiling: without, most of the time goes to calls of tiny operators.
    """

    def objective(theta: Params, pull: Pull, x: Tensor, y: Tensor) -> Tensor:
        distance = sum(((p - pull.anchor[n]) ** 2).sum() for n, p in theta.items())
        return loss(theta, x, y) + pull.strength * distance

    gradients = vmap(grad(objective), in_dims=(0, None, 0, 0))
    held_out = vmap(loss, in_dims=(0, 0, 0))

    def block(theta: Params, adam: Adam, pull: Pull, tasks: Episode) -> tuple[Params, Adam, Tensor]:
        for _ in range(recipe.check_every):
            grads = gradients(theta, pull, tasks.support_x, tasks.support_y)
            theta, adam = adam.update(theta, grads, recipe.lr)
        return theta, adam, held_out(theta, tasks.query_x, tasks.query_y)

    return block


@torch.no_grad()
def train_networks(
    block: Block, recipe: Recipe, starts: Params, tasks: Episode, pull: Pull
) -> Trained:
    """Train network i on the support examples of task i until its query loss is below the target.

    Each keeps the parameters that it had when it was first seen there.

    Shapes: ``starts [networks, ...]``; `tasks` holds as many tasks.
    """
    theta, adam, kept = starts, Adam.start(starts), starts
    steps = torch.zeros(tasks.tasks, dtype=torch.int64, device=tasks.support_x.device)
    final = torch.full(steps.shape, torch.inf, device=steps.device)
    for blocks in range(-(-recipe.max_steps // recipe.check_every)):
        theta, adam, losses = block(theta, adam, pull, tasks)
        running = steps == 0
        kept = {n: _where(running, p, kept[n]) for n, p in theta.items()}
        final = torch.where(running, losses.to(final.dtype), final)
        taken = (blocks + 1) * recipe.check_every
        arrived = (losses < recipe.target) & (taken >= recipe.min_steps)
        steps = torch.where(running & arrived, taken, steps)
        if bool(steps.all()):
            break
    return Trained(kept, final, steps)


def _where(chosen: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (new.ndim - 1)), new, old)


def mean_with(mean: Mapping[str, Tensor], count: int, more: Params) -> Params:
    """The mean of `count` networks, `mean`, and of `more`, ``[networks, ...]``.

    >>> mean_with({"w": torch.tensor(1.0)}, 2, {"w": torch.tensor([4.0, 6.0])})
    {'w': tensor(3.)}
    """
    return {
        name: old + (more[name] - old).sum(dim=0) / (count + len(more[name]))
        for name, old in mean.items()
    }


def random_starts(model: nn.Module, networks: int) -> Params:
    """The trainable parameters of that many copies, initialised anew, ``[networks, ...]``.

    Raises:
        ValueError: naming a layer that cannot be: it has parameters and no `reset_parameters`.
    """
    model = deepcopy(model).cpu()  # the same weights whatever the device
    for name, module in model.named_modules():
        if [*module.parameters(recurse=False)] and not hasattr(module, "reset_parameters"):
            raise ValueError(
                "`model` must be made of layers with a method `reset_parameters`, to start from "
                f"random weights again, got `{name}`, a {type(module).__name__}."
            )
    # The whole after its parts: it may know better (MLP's `init`).
    order: list[Any] = [m for m in reversed([*model.modules()]) if hasattr(m, "reset_parameters")]
    starts = []
    for _ in range(networks):
        for module in order:
            module.reset_parameters()
        named = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        starts.append(named)
    return {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
