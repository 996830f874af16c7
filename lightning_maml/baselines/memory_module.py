"""Memory module (Kaiser, Nachum, Roy, Bengio, 2017): the label of the nearest key in a memory."""

import math
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.argument_types import check_counts, check_positive, check_types
from lightning_maml.baselines.embedded_sets import (
    at_least_float32,
    by_class,
    checked_encoder,
    class_count,
    embedded,
    inner_products,
)
from lightning_maml.episode import Episode

NOBODY = -1  # the value of an empty slot

# T tasks, S support and Q query examples, N classes, M slots, D features


class Memory(NamedTuple):
    """Keys of unit length with their class and their age; an empty slot is older than any other.

    Shapes: ``keys [T, M, D]``, ``values [T, M]`` and ``ages [T, M]``, both int64.
    """

    keys: Tensor
    values: Tensor
    ages: Tensor

    @classmethod
    def empty(cls, tasks: int, slots: int, like: Tensor) -> Self:
        """As a task begins; features, dtype and device of `like`."""
        values = torch.full((tasks, slots), NOBODY, device=like.device)
        keys = like.new_zeros(tasks, slots, like.shape[-1])
        return cls(keys, values, torch.zeros_like(values))


def update(memory: Memory, query: Tensor, label: Tensor) -> Memory:
    """The memory after it is told the class of a query (Sec. 2, "memory update").

    Where the nearest key has that class, it becomes the normalised sum of both. Elsewhere query and
    class take the oldest slot. Either slot gets age 0, all others age by 1.

    Shapes: ``query [T, D]`` of unit length, ``label [T]``.
    """
    similarity = _similarities(memory, query[:, None])[:, 0]
    nearest = similarity.argmax(dim=1)
    tasks = torch.arange(len(label), device=label.device)
    right = memory.values[tasks, nearest] == label
    slot = nearest.where(right, memory.ages.argmax(dim=1))
    old = memory.keys[tasks, slot] * right[:, None]
    keys, values, ages = memory.keys.clone(), memory.values.clone(), memory.ages + 1
    keys[tasks, slot] = F.normalize(old + query, dim=1)
    values[tasks, slot] = label
    ages[tasks, slot] = 0
    return Memory(keys, values, ages)


def class_similarities(memory: Memory, queries: Tensor, n_way: int) -> Tensor:
    """Of each query and class, the highest similarity to a key of it; minus infinity without one.

    Shapes: ``queries [T, Q, D]`` of unit length -> ``[T, Q, N]``.
    """
    return by_class(_similarities(memory, queries), memory.values, n_way).amax(dim=2)


def margin_loss(scores: Tensor, labels: Tensor, margin: float) -> Tensor:
    """max(0, best wrong similarity - best right one + margin) (Eq. 1), the mean over queries.

    A similarity that is not there counts as 0, that of vectors at a right angle.

    Shapes: ``scores [E, N]`` of `class_similarities`, ``labels [E]``.
    """
    is_right = F.one_hot(labels, scores.shape[1]).bool()
    right = scores.masked_fill(~is_right, -torch.inf).amax(dim=1)
    wrong = scores.masked_fill(is_right, -torch.inf).amax(dim=1)
    right, wrong = (s.where(s.isfinite(), torch.zeros_like(s)) for s in (right, wrong))
    return (wrong - right + margin).relu().mean()


class MemoryModule(nn.Module):
    """The support set is shown one by one; a query gets the class of the nearest key.

    Args:
        encoder: any module from examples to vectors.
        features: numbers in a vector, and in a key.
        slots: of the memory, at least as many as support examples; in training, which stores
            queries too, as support and query examples together.
        margin: of the loss.
        inverse_temperature: what similarities are multiplied by for probabilities.

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        features: int = 128,
        slots: int = 256,
        margin: float = 0.1,
        inverse_temperature: float = 40.0,
    ) -> None:
        check_types(MemoryModule.__init__, locals())
        check_counts(features=(features, 1))
        check_positive(inverse_temperature=inverse_temperature)
        super().__init__()
        if slots < 1:
            raise ValueError(f"`slots` must be at least 1, got {slots}.")
        if not 0 <= margin < math.inf:
            raise ValueError(f"`margin` must be a finite number >= 0, got {margin}.")
        self.encoder, self.slots, self.margin = checked_encoder(encoder), slots, margin
        self.inverse_temperature = inverse_temperature
        self.project = nn.Linear(features, features, bias=False)

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Log-probabilities of the classes, ``[T, Q, N]``."""
        self._check_slots(support_x.shape[1], "support examples")
        support, query = self._keys(support_x, query_x)
        memory = Memory.empty(len(support), self.slots, support)
        for t in range(support.shape[1]):
            memory = update(memory, support[:, t], support_y[:, t])
        scores = class_similarities(memory, query, class_count(support_y))
        return (self.inverse_temperature * scores).log_softmax(dim=-1)

    def training_loss(self, episode: Episode) -> Tensor:
        """The margin loss at each example, support then query, before it is told its class.

        All are shown in an order of their own, which is drawn. Keys in memory are constants.

        Raises:
            ValueError: naming `slots`, if there are fewer than examples.
        """
        shown = episode.support_x.shape[1] + episode.query_x.shape[1]
        self._check_slots(shown, "support and query examples in training")
        n_way = class_count(episode.support_y)
        losses = []
        memory: Memory | None = None
        parts = zip(self._keys(episode.support_x, episode.query_x), episode[1::2], strict=True)
        for vectors, labels in parts:
            order = torch.rand(labels.shape, device=labels.device).argsort(dim=1)
            vectors = vectors.gather(1, order[..., None].expand_as(vectors))
            for x, y in zip(vectors.unbind(1), labels.gather(1, order).unbind(1), strict=True):
                memory = memory or Memory.empty(len(x), self.slots, x.detach())
                scores = class_similarities(memory, x[:, None], n_way)[:, 0]
                losses.append(margin_loss(scores, y, self.margin))
                memory = update(memory, x.detach(), y)
        return torch.stack(losses).mean()

    def _check_slots(self, shown: int, what: str) -> None:
        if shown > self.slots:  # a class could lose all its keys
            raise ValueError(
                f"`slots` must be at least {shown}, the number of {what}, got {self.slots}."
            )

    def _keys(self, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        support, query = (
            F.normalize(at_least_float32(self.project(vectors)), dim=-1)
            for vectors in embedded(self.encoder, support_x, query_x, self.project.in_features)
        )
        return support, query


def _similarities(memory: Memory, queries: Tensor) -> Tensor:
    """Cosines to the keys, minus infinity to empty slots: ``[T, Q, D] -> [T, Q, M]``."""
    empty = (memory.values == NOBODY)[:, None]
    return inner_products(queries, memory.keys).masked_fill(empty, -torch.inf)
