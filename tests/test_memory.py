"""Memory of the sweep does not grow with the number of inner steps."""

import gc
import weakref

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lightning_maml import Episode, MetaLearner
from lightning_maml.inner_loop import MetaParams
from lightning_maml.meta_gradient import MetaGradient, TaskReport, mean_over_tasks
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


def peak(
    derivation: str,
    steps: int,
    tasks: int = 1,
    tasks_at_once: int = 1,
    first_order: bool = False,
) -> int:
    torch.manual_seed(0)
    maml = MetaLearner(
        Conv4(3, 1, 4, 16, "max_pool", "flatten"), loss=F.cross_entropy, inner_steps=steps,
        derivation=derivation, tasks_at_once=tasks_at_once, first_order=first_order,
    )  # fmt: skip
    x = torch.rand(tasks, 12, 1, 16, 16)
    y = torch.arange(12).remainder(3).expand(tasks, -1)
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


def test_first_order_keeps_nothing_of_a_step() -> None:
    """From 2 to 40 steps; the sweep keeps the weights of each."""
    at_two, at_forty = (peak("sweep", steps, first_order=True) for steps in (2, 40))
    assert at_forty <= 1.01 * at_two
    assert peak("sweep", 40) > 1.1 * peak("sweep", 2)


def test_gradients_of_chunks_are_added_as_they_come() -> None:
    """Not those of all chunks at once: the sum, one chunk's, and the next one's."""
    alive: list[weakref.ref] = []

    def share(chunk: Episode) -> MetaGradient:
        found.append(sum(ref() is not None for ref in alive))
        grad, one = torch.ones(1), torch.ones(1)
        alive.append(weakref.ref(grad))
        return MetaGradient(
            torch.ones(()), MetaParams({"w": grad}, {}, {}), TaskReport(one, one, one)
        )

    found: list[int] = []
    x = torch.zeros(20, 1)
    total = mean_over_tasks(share, Episode(x, x, x, x), 1)
    assert total.grads.adapted["w"].item() == 20
    assert max(found) <= 2


def test_memory_falls_with_the_number_of_tasks_at_once() -> None:
    """A10: what chunks are for."""
    together, two, one = (peak("sweep", 1, tasks=8, tasks_at_once=n) for n in (8, 2, 1))
    assert one < 0.7 * two < 0.3 * together


def tensors_with_a_graph() -> int:
    gc.collect()
    # `isinstance` would wake lazy objects that other libraries keep.
    tensors = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
    return sum(t.grad_fn is not None for t in tensors)


def test_evaluation_keeps_nothing_alive() -> None:
    """A16: after 20 batches no more tensors with a graph are alive than before the first."""
    maml = MetaLearner(Conv4(3, 1, 4, 16), loss=F.cross_entropy)
    x, y = torch.rand(2, 12, 1, 16, 16), torch.arange(12).remainder(3).expand(2, -1)
    before = tensors_with_a_graph()
    for _ in range(20):
        maml.curve.update(maml.evaluate(Episode(x, y, x, y)), torch.arange(2))
    assert tensors_with_a_graph() == before
