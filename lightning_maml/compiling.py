"""Whether the meta-gradient is compiled, how, and what cannot be."""

import logging
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from lightning_maml.functional_model import call_without_trace
from lightning_maml.random_state import random_state, set_random_state

log = logging.getLogger(__name__)

Inputs = ParamSpec("Inputs")
Result = TypeVar("Result")


def compiled(program: Callable[Inputs, Result], device: torch.device) -> Callable[Inputs, Result]:
    """`program`, compiled for each shape of its inputs.

    On a CPU torch would put the channels last in some maps and leave others as they are; what
    reads both at once then takes several times as long.
    """
    as_they_are = {"layout_optimization": False} if device.type == "cpu" else None
    return torch.compile(program, fullgraph=True, dynamic=False, options=as_they_are)  # type: ignore[arg-type]


def resolve_compile(setting: bool | Literal["auto"], model: nn.Module, x: Tensor) -> bool:
    """Whether to compile; ``"auto"`` compiles where a compiler is at hand and the model allows it.

    "auto" says in one line which path runs, and why if it is the eager one. `x` is an example
    batch, ``[examples, ...]``.

    Raises:
        ValueError: if `setting` is true and the model draws random numbers.
    """
    if not setting:
        return False
    if setting is True:
        refuse_random_numbers(model, x)
        return True
    try:
        refuse_random_numbers(model, x)
        torch.compile(_trial)(torch.ones(8, device=x.device))
    except Exception as error:  # no C++ compiler, no Triton, an unsupported Python: many types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        log.info("Meta-gradient: eager; torch.compile does not work here (%s).", reason)
        return False
    log.info("Meta-gradient: compiled; the first meta-update takes longer.")
    return True


def _trial(x: Tensor) -> Tensor:
    return (x * 2 + 1).sum()


@torch.no_grad()
def refuse_random_numbers(model: nn.Module, x: Tensor) -> None:
    """Refuse a model whose forward draws random numbers, as dropout does in training.

    Compiled, the sweep cannot draw the same mask twice, and the gradient would be wrong.

    Raises:
        ValueError: naming the option and the modules.
    """
    before = random_state(x.device)
    call_without_trace(model, x)
    after = random_state(x.device)
    set_random_state(before, x.device)
    if all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        return
    names = [name for name, module in model.named_modules() if "Dropout" in type(module).__name__]
    raise ValueError(
        "`compile` must be false for a model that draws random numbers in training mode, got "
        f"true with {names or type(model).__name__}."
    )
