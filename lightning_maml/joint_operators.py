"""What may be differentiated outside of `vmap` (the derivation "joint").

There torch differentiates what its batching rules made of an operator. For a layer norm's backward
they take mean and deviation as given, although they depend on the input, and the second derivative
is wrong without a warning (torch 2.14). So only operators are let through for which the
meta-gradient has been compared with that of the sweep (tests/test_joint_operators.py), on a CPU.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_maml.random_state import random_state, set_random_state

log = logging.getLogger(__name__)

LAYOUT = (
    "alias", "cat", "clone", "contiguous", "copy", "detach", "empty", "expand", "lift_fresh",
    "permute", "select", "slice", "squeeze", "stack", "t", "transpose", "unsqueeze", "unsafe_view",
    "view", "_unsafe_view", "_to_copy", "_reshape_alias", "_reshape_copy",
)  # fmt: skip
ELEMENTWISE = (
    "add", "cos", "div", "exp", "gelu", "leaky_relu", "log", "mul", "neg", "pow", "relu", "rsub",
    "sigmoid", "silu", "sin", "sqrt", "sub", "tanh",
)  # fmt: skip
REDUCTIONS = (
    "_log_softmax", "_native_batch_norm_legit", "_softmax", "logsumexp", "mean", "mse_loss",
    "native_batch_norm", "nll_loss_forward", "sum", "var_mean",
)  # fmt: skip
PRODUCTS = ("addmm", "avg_pool2d", "bmm", "convolution", "max_pool2d_with_indices", "mm")
COMPARED = frozenset((*LAYOUT, *ELEMENTWISE, *REDUCTIONS, *PRODUCTS))
"""Names of aten's operators; a trailing underscore, of those that write in place, is left off."""


def resolve_derivation(
    setting: str, tasks_at_once: int, call: Callable[..., Any], *inputs: Tensor
) -> str:
    """The derivation to take where `setting` is "joint" or "auto"; any other is what it is.

    "auto" is "joint" where tasks are batched and all operators of ``call(*inputs)`` have been
    compared, else "sweep"; it says in one line which.

    Raises:
        ValueError: naming the option and the operators, if "joint" has not been compared for them.
    """
    if setting not in ("joint", "auto"):
        return setting
    unknown = sorted(operators(call, inputs) - COMPARED) if tasks_at_once > 1 else []
    if setting == "auto" and (unknown or tasks_at_once == 1):
        why = f" ({', '.join(unknown)})" if unknown else ""
        log.info("Meta-gradient: by the sweep%s.", why)
        return "sweep"
    if setting == "auto":
        log.info("Meta-gradient: jointly for %d tasks at a time.", tasks_at_once)
        return "joint"
    if unknown:
        raise ValueError(
            '`derivation` must be "sweep", "unrolled" or "auto" where tasks are batched '
            f"(`tasks_at_once` above 1) and the model or the loss has {', '.join(unknown)}, got "
            '"joint": with it torch\'s second derivatives are known to be right for others only.'
        )
    return setting


def operators(call: Callable[..., Any], inputs: Sequence[Tensor]) -> set[str]:
    """Names of aten's operators that ``call(*inputs)`` runs."""
    before = random_state(inputs[0].device)
    with torch.no_grad(), _Names() as mode:
        call(*inputs)
    set_random_state(before, inputs[0].device)
    return mode.names


class _Names(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names.add(name if name.startswith("__") else name.rstrip("_"))
        return func(*args, **(kwargs or {}))
