"""How many tasks to batch by `vmap` at a time, where `tasks_at_once` is "auto"."""

import logging
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_maml.episode import Episode
from lightning_maml.functional_model import call_without_trace, eval_mode

log = logging.getLogger(__name__)

TasksAtOnce = int | Literal["auto"] | None
CACHED = 48 * 2**20
"""Bytes that the layers' outputs of a chunk may take on a CPU. Two cores are fastest with 32 tasks
of Omniglot 5-way 1-shot (43 MB), 8 of 20-way 1-shot (43 MB) and one of mini-ImageNet (240 MB)."""
SHARE = 1 / 32
"""Share of an accelerator's memory for the same. A second-order meta-gradient keeps several tensors
for each layer's output, and the weights and everything else need room, too."""


def check_tasks_at_once(setting: object) -> None:
    """Raise ValueError unless it is a `TasksAtOnce` that can be."""
    if setting not in (None, "auto") and not (isinstance(setting, int) and setting >= 1):
        raise ValueError(f'`tasks_at_once` must be >= 1, None or "auto", got {setting!r}.')


def resolve_tasks_at_once(setting: TasksAtOnce, model: nn.Module, episode: Episode) -> int:
    """A number from 1 to the episode's tasks; ``None`` means all of them.

    "auto" takes as many as `CACHED` or `SHARE` allow, in chunks of about the same size, and logs
    its choice. It depends on the model, the shapes and the kind of device, so it is the same in
    each run and on each process. Recurrent layers have no `vmap` rule: one at a time.
    """
    if setting != "auto":
        return min(setting or episode.tasks, episode.tasks)
    if any(isinstance(module, nn.RNNBase) for module in model.modules()):
        log.info("Tasks at once: 1, since recurrent layers cannot be batched over tasks.")
        return 1
    each, limit = output_bytes(model, episode), budget(episode.support_x.device)
    most = max(1, min(episode.tasks, limit // max(each, 1)))
    chunks = -(-episode.tasks // most)
    chosen = -(-episode.tasks // chunks)
    log.info(
        "Tasks at once: %d of %d (%.1f MB of layers' outputs for each task, up to %.0f MB).",
        chosen, episode.tasks, each / 1e6, limit / 1e6,
    )  # fmt: skip
    return chosen


def budget(device: torch.device) -> int:
    """Bytes that the layers' outputs of a chunk may take."""
    if device.type != "cuda":
        return CACHED
    return int(SHARE * torch.cuda.get_device_properties(device).total_memory)


@torch.no_grad()
def output_bytes(model: nn.Module, episode: Episode) -> int:
    """Bytes of all layers' outputs for the support and query examples of one task.

    Measured on the support set of the first, in eval mode so that no random number is drawn.
    """
    total = 0

    def add(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal total
        total += output.nbytes if isinstance(output, Tensor) else 0

    layers = [module for module in model.modules() if not any(module.children())]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    try:
        with eval_mode(model):
            call_without_trace(model, episode.support_x[0])
    finally:
        for hook in hooks:
            hook.remove()
    support, query = episode.support_x.shape[1], episode.query_x.shape[1]
    return total * (support + query) // support
