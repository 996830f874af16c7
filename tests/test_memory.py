"""Memory of the sweep does not grow with the number of inner steps."""

import gc
import weakref

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lightning_maml import Episode, MetaLearner
from lightning_maml.models import Conv4


class PeakBytes(TorchDispatchMode):
    """The most bytes that tensors made in here held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self.watch(tensor.untyped_storage())
        return result

    def watch(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.seen:
            return
        self.seen.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.release, key, size)

    def release(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def peak(derivation: str, steps: int) -> int:
    torch.manual_seed(0)
    maml = MetaLearner(
        Conv4(3, 1, 4, 16, "max_pool", "flatten"), loss=F.cross_entropy, inner_steps=steps,
        derivation=derivation, tasks_at_once=1,
    )  # fmt: skip
    x = torch.rand(1, 12, 1, 16, 16)
    y = torch.arange(12).remainder(3).expand(1, -1)
    episode = Episode(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])
    maml.meta_loss(episode)
    gc.collect()
    with PeakBytes() as measured:
        maml.meta_loss(episode)
    return measured.peak


def test_memory_is_flat_in_the_number_of_inner_steps() -> None:
    """At most 1.15 times from 2 to 20 steps; unrolled grows, so the measure can tell."""
    assert peak("sweep", 20) <= 1.15 * peak("sweep", 2)
    assert peak("unrolled", 20) > 3 * peak("unrolled", 2)
