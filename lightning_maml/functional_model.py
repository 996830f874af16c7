"""A module as a pure function of its tensors, and what torch.func needs around it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lightning_maml.inner_loop import Params, TaskLoss
from lightning_maml.losses import Loss


@dataclass(frozen=True)
class ModuleTensors:
    """All tensors of a module, by name and by what happens to them.

    Attributes:
        adapted: trainable parameters that the inner loop changes.
        held: trainable parameters that it leaves alone.
        frozen: parameters with `requires_grad=False`.
        buffers: the module's buffers.
    """

    adapted: Params
    held: Params
    frozen: Params
    buffers: Params


def module_tensors(model: nn.Module, adapts: Sequence[str]) -> ModuleTensors:
    """Sort a module's tensors; names are those that `model.named_parameters()` gives.

    A trainable parameter is adapted if one of the patterns `adapts` (`fnmatch`) matches its name,
    or another name of it where two layers share it.

    Raises:
        ValueError: if a pattern matches no trainable parameter; the message lists them.
    """
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        aliases.setdefault(id(parameter), []).append(name)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    matched = {
        pattern: {
            name
            for name, parameter in trainable.items()
            if any(fnmatchcase(alias, pattern) for alias in aliases[id(parameter)])
        }
        for pattern in adapts
    }
    for pattern, names in matched.items():
        if not names:
            raise ValueError(
                f"`adapts` must be patterns that match trainable parameters of the model, got "
                f"{pattern!r}, which matches none of {list(trainable)}."
            )
    if not matched:
        raise ValueError("`adapts` must name at least one pattern, got none.")
    adapted = set().union(*matched.values())
    return ModuleTensors(
        adapted={n: p for n, p in trainable.items() if n in adapted},
        held={n: p for n, p in trainable.items() if n not in adapted},
        frozen={n: p for n, p in model.named_parameters() if not p.requires_grad},
        buffers=dict(model.named_buffers()),
    )


def task_loss(model: nn.Module, loss: Loss, frozen: Params, buffers: Params) -> TaskLoss:
    """The loss of one task as a function of the adapted and held parameters.

    What `forward` writes to a buffer does not outlive the call: an episode leaves no trace.
    """

    def call(adapted: Params, held: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        scratch = {name: buffer.clone() for name, buffer in buffers.items()}
        output = functional_call(model, {**adapted, **held, **frozen, **scratch}, (x,))
        return loss(output, y), output

    return call


@contextmanager
def second_derivatives() -> Iterator[None]:
    """No autograd graph around, and only kernels that can be differentiated twice.

    The fused kernels of attention have no second derivative.
    """
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """`model.eval()`, and every submodule's own mode again afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def vmap_errors_explained(tasks_at_once: int) -> Iterator[None]:
    """Turn an error of `vmap` into one that says what a user can do about it."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if tasks_at_once == 1 or "vmap" not in str(error).partition("\n")[0]:
            raise
        raise RuntimeError(
            "the model or the loss cannot be batched over tasks; set `tasks_at_once` to 1 to "
            f"run the tasks one by one (got {tasks_at_once}). torch said: {error}"
        ) from error
