"""How many tasks to batch by `vmap` at a time, where `tasks_at_once` is "auto"."""

import logging
from typing import Any, Literal

import torch
from torch import is_tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_maml.episode import Episode
from lightning_maml.functional_model import call_without_trace, eval_mode, second_derivatives

log = logging.getLogger(__name__)

TasksAtOnce = int | Literal["auto"] | None
CACHED = 72 * 2**20
"""Bytes that the forward passes of a chunk may write where there is no CUDA. Two CPU cores are
fastest with 32 tasks of Omniglot 5-way 1-shot (65 MB), 8 of 20-way 1-shot (65 MB) and one of
mini-ImageNet (462 MB)."""
SHARE = 1 / 32
"""Share of a CUDA device's memory for the same. A second-order meta-gradient keeps several tensors
for each that is written, and the weights and everything else need room, too."""


def check_tasks_at_once(setting: object) -> None:
    """Raise ValueError unless it is a `TasksAtOnce` that can be."""
    number = isinstance(setting, int) and not isinstance(setting, bool) and setting >= 1
    if setting not in (None, "auto") and not number:
        raise ValueError(f'`tasks_at_once` must be >= 1, None or "auto", got {setting!r}.')


def resolve_tasks_at_once(setting: TasksAtOnce, model: nn.Module, episode: Episode) -> int:
    """A number from 1 to the episode's tasks; ``None`` means all of them.

    "auto" takes as many as `CACHED` or `SHARE` allow, in chunks of about the same size, and logs
    its choice. It depends on the model, the shapes, the precision and the size of the device, not
    on what else is there, so it is the same in each run on the same machine. Recurrent layers have
    no `vmap` rule: one at a time.
    """
    if setting != "auto":
        return min(setting or episode.tasks, episode.tasks)
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        log.info("Tasks at once: 1, since recurrent layers cannot be batched over tasks.")
        return 1
    each, limit = written_bytes(model, episode), budget(episode.support_x.device)
    most = max(1, min(episode.tasks, limit // max(each, 1)))
    chunks = -(-episode.tasks // most)
    chosen = -(-episode.tasks // chunks)
    log.info(
        "Tasks at once: %d of %d (a forward pass of one writes %.1f MB, of %.0f MB in all).",
        chosen, episode.tasks, each / 1e6, limit / 1e6,
    )  # fmt: skip
    return chosen


def budget(device: torch.device) -> int:
    """Bytes that the forward passes of a chunk may write."""
    if device.type != "cuda":
        return CACHED
    return int(SHARE * torch.cuda.get_device_properties(device).total_memory)


class _Written(TorchDispatchMode):
    """Counts the bytes that operators write: of their results, but not of views."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and count."""
        result = func(*args, **(kwargs or {}))
        if not any(value.alias_info for value in func._schema.returns):
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves(result) if is_tensor(leaf))
        return result


def written_bytes(model: nn.Module, episode: Episode) -> int:
    """Bytes of all results in the forward passes over one task's support and query examples.

    Measured on the support set of the first, in eval mode so that no random number is drawn.
    """
    with second_derivatives(model), eval_mode(model), _Written() as written:
        call_without_trace(model, episode.support_x[0])
    support, query = episode.support_x.shape[1], episode.query_x.shape[1]
    return written.bytes * (support + query) // support
