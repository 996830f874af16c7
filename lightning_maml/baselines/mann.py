"""Memory-augmented neural network (Santoro et al., 2016), without convolutions as in Table 1.

An LSTM sees the support examples one after another, each with the label of the one before, and
binds images to labels in an external memory that it writes by least recently used access (Sec. 3).
"""

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.argument_types import check_counts, check_shares, check_types
from lightning_maml.baselines.embedded_sets import class_count, cosines, negative_log_likelihood
from lightning_maml.episode import Episode

EMPTY = 1e-6  # what memory starts with; the cosine of zero is not defined

# T tasks, S support and Q query examples, N classes, R heads, M slots, W numbers in a slot


class Memory(NamedTuple):
    """The external memory and how it was used.

    Shapes: ``rows [T, M, W]``, ``usage [T, M]``, ``reads [T, R, M]``: the last read weights.
    """

    rows: Tensor
    usage: Tensor
    reads: Tensor

    @classmethod
    def empty(cls, like: Tensor, heads: int, slots: int, width: int) -> Self:
        """As a task begins; tasks, dtype and device of `like`."""
        tasks = len(like)
        return cls(
            like.new_full((tasks, slots, width), EMPTY),
            like.new_zeros(tasks, slots),
            like.new_zeros(tasks, heads, slots),
        )


def least_used(usage: Tensor, heads: int) -> Tensor:
    """One-hot: head r gets the slot with the r-th lowest usage, of equals the first.

    In the paper every head gets all of the R least used slots.

    Shapes: ``[T, M]`` -> ``[T, R, M]``.
    """
    slots = usage.sort(dim=1, stable=True).indices[:, :heads]
    return F.one_hot(slots, usage.shape[1]).to(usage)


def written(memory: Memory, gate: Tensor, content: Tensor) -> tuple[Tensor, Tensor]:
    """Rows after a write, and the write weights (Eq. 5 to 8).

    w = gate * (last read weights) + (1 - gate) * `least_used`; the least used slot of all is
    cleared before row_i <- row_i + w_i * content.

    Shapes: ``gate [T, R]`` in [0, 1], ``content [T, R, W]`` -> ``[T, M, W]``, ``[T, R, M]``.
    """
    least = least_used(memory.usage, memory.reads.shape[1])
    weights = gate[..., None] * memory.reads + (1 - gate[..., None]) * least
    kept = memory.rows * (1 - least[:, 0, :, None])
    return kept + weights.mT @ content, weights


def read_weights(rows: Tensor, keys: Tensor) -> Tensor:
    """Softmax over slots of the cosine similarity to each head's key (Eq. 2 and 3).

    Shapes: ``[T, M, W]``, ``[T, R, W]`` -> ``[T, R, M]``.
    """
    return cosines(keys, rows).softmax(dim=-1).to(rows)


def access(
    memory: Memory, gate: Tensor, content: Tensor, keys: Tensor, decay: float
) -> tuple[Memory, Tensor]:
    """Write, then read; usage <- decay * usage + what was read and written (Eq. 4).

    Returns the memory, and what each head read ``[T, R, W]``.
    """
    rows, writes = written(memory, gate, content)
    reads = read_weights(rows, keys)
    usage = decay * memory.usage + (reads + writes).sum(dim=1)
    return Memory(rows, usage, reads), reads @ rows


class State(NamedTuple):
    """Between two steps: hidden and cell state of the LSTM, what was read, the memory."""

    hidden: Tensor
    cell: Tensor
    reading: Tensor
    memory: Memory

    def for_each(self, queries: int) -> "State":
        """Copies of each task's state, one after another: ``[T, ...] -> [T * Q, ...]``."""
        hidden, cell, reading, *memory = (
            part.repeat_interleave(queries, dim=0) for part in (*self[:3], *self.memory)
        )
        return State(hidden, cell, reading, Memory(*memory))


class MANN(nn.Module):
    """LSTM controller with an external memory; each query is a step after the support set.

    Args:
        n_way: number of classes.
        in_channels: channels of an image.
        image_size: images are averaged down to this size and flattened.
        hidden: units of the LSTM.
        slots: rows of the memory.
        width: numbers in a row.
        heads: read heads, each of which writes, too.
        decay: of the usage.

    Raises:
        ValueError: naming the argument that is out of range or does not fit the tasks.
    """

    def __init__(
        self,
        n_way: int,
        in_channels: int = 1,
        image_size: int = 20,
        hidden: int = 200,
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        decay: float = 0.95,
    ) -> None:
        check_types(MANN.__init__, locals())
        check_counts(n_way=(n_way, 2), in_channels=(in_channels, 1), image_size=(image_size, 1))
        check_counts(hidden=(hidden, 1), width=(width, 1))
        super().__init__()
        check_shares(decay=decay)
        if heads < 1:
            raise ValueError(f"`heads` must be at least 1, got {heads}.")
        if slots < heads:
            raise ValueError(
                f"`slots` must be at least {heads}, one for each of the `heads`, got {slots}."
            )
        self.n_way, self.image_size, self.decay = n_way, image_size, decay
        self.in_channels = in_channels
        self.heads, self.slots, self.width = heads, slots, width
        pixels = in_channels * image_size**2
        self.lstm = nn.LSTMCell(pixels + n_way + heads * width, hidden)
        self.keys = nn.Linear(hidden, heads * width)
        self.contents = nn.Linear(hidden, heads * width)
        self.gates = nn.Linear(hidden, heads)
        self.head = nn.Linear(hidden + heads * width, n_way)

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Log-probabilities of the classes, ``[T, Q, N]``.

        The support examples come in an order that is drawn for training, and fixed otherwise.
        """
        return self._sequence(support_x, support_y, query_x)[1]

    def training_loss(self, episode: Episode) -> Tensor:
        """Negative log-probability of the right class, mean over all steps, support and query."""
        support_y, order = episode.support_y, self._order(episode.support_y)
        guesses, answers = self._sequence(*episode[:3], order)
        both = torch.cat([guesses, answers], dim=1)
        labels = torch.cat([support_y.gather(1, order), episode.query_y], dim=1)
        return negative_log_likelihood(both, labels)

    def _sequence(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, order: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities at each support step, before its label is seen, and of each query."""
        if (classes := class_count(support_y)) > self.n_way:
            raise ValueError(
                f"`n_way` must be at least {classes}, the tasks' number of classes, "
                f"got {self.n_way}."
            )
        order = self._order(support_y) if order is None else order
        support, query = self._pixels(support_x), self._pixels(query_x)
        support = support.gather(1, order[..., None].expand_as(support))
        labels = F.one_hot(support_y.gather(1, order), self.n_way).to(support)
        state, last = self._start(support[:, 0]), torch.zeros_like(labels[:, 0])
        guesses = []
        for t in range(support.shape[1]):
            state, guess = self._step(state, support[:, t], last)
            guesses.append(guess)
            last = labels[:, t]
        queries = query.shape[1]
        _, answers = self._step(
            state.for_each(queries), query.flatten(0, 1), last.repeat_interleave(queries, dim=0)
        )
        return torch.stack(guesses, dim=1), answers.unflatten(0, query.shape[:2])

    def _step(self, state: State, x: Tensor, last_label: Tensor) -> tuple[State, Tensor]:
        seen = torch.cat([x, last_label, state.reading], dim=1)
        hidden, cell = self.lstm(seen, (state.hidden, state.cell))
        shape = (self.heads, self.width)
        memory, reading = access(
            state.memory,
            self.gates(hidden).sigmoid(),
            self.contents(hidden).tanh().unflatten(1, shape),
            self.keys(hidden).tanh().unflatten(1, shape),
            self.decay,
        )
        logits = self.head(torch.cat([hidden, reading.flatten(1)], dim=1))
        return State(hidden, cell, reading.flatten(1), memory), logits.log_softmax(dim=-1)

    def _start(self, like: Tensor) -> State:
        memory = Memory.empty(like, self.heads, self.slots, self.width)
        hidden = like.new_zeros(len(like), self.lstm.hidden_size)
        reading = like.new_zeros(len(like), self.heads * self.width)
        return State(hidden, hidden, reading, memory)

    def _order(self, labels: Tensor) -> Tensor:
        """A permutation of each task's support examples, ``[T, S]``."""
        tasks, examples = labels.shape
        if self.training:
            return torch.rand(labels.shape, device=labels.device).argsort(dim=1)
        fixed = torch.randperm(examples, generator=torch.Generator().manual_seed(0))
        return fixed.to(labels.device).expand(tasks, examples)

    def _pixels(self, images: Tensor) -> Tensor:
        """``[T, E, C, H, W] -> [T, E, C * image_size^2]``."""
        if images.ndim != 5 or images.shape[2] != self.in_channels:
            raise ValueError(
                f"`in_channels` must be that of images [T, E, C, H, W], got {self.in_channels} and "
                f"shape {list(images.shape)}."
            )
        small = F.adaptive_avg_pool2d(images.flatten(0, 1), int(self.image_size))
        return small.flatten(1).unflatten(0, images.shape[:2])
