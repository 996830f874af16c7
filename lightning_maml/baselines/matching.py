"""Matching networks (Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra, 2016)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_maml.argument_types import check_counts, check_positive, check_types
from lightning_maml.baselines.embedded_sets import (
    by_class,
    checked_encoder,
    class_count,
    cosines,
    embedded,
    inner_products,
    negative_log_likelihood,
    squared_distances,
)
from lightning_maml.episode import Episode

Distance = Literal["cosine", "euclidean"]


def similarities(query: Tensor, support: Tensor, distance: Distance) -> Tensor:
    """Cosine similarity, or minus the squared Euclidean distance.

    Shapes: ``query [T, Q, D]``, ``support [T, S, D]`` -> ``[T, Q, S]``.
    """
    if distance == "cosine":
        return cosines(query, support)
    return -squared_distances(query, support)


class FullContext(nn.Module):
    """Full context embeddings g(x_i, S) and f(x, S) (Sec. 2.1.2, App. A).

    Args:
        features: D, numbers in an embedding.
        steps: K, how many times a query reads the support set.
    """

    def __init__(self, features: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.over_support = nn.LSTM(features, features, batch_first=True, bidirectional=True)
        self.of_query = nn.LSTMCell(2 * features, features)

    def forward(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings in context, of the shapes of ``support [T, S, D]``, ``query [T, Q, D]``."""
        forth, back = self.over_support(support)[0].chunk(2, dim=-1)
        support = support + forth + back
        return support, self._read(support, query)

    def _read(self, support: Tensor, query: Tensor) -> Tensor:
        """The attention LSTM: each step reads the support set with the state of the last one.

        r_{k-1} = sum_i a(h_{k-1}, g(x_i)) g(x_i) with h_0 = 0: the first reading is the mean. The
        paper's LSTM has [h, r] as its hidden state. Its gates are linear in both and in the input,
        so r, the reading, may as well be part of the input.
        """
        shape, x = query.shape, query.flatten(0, 1)
        h = cell = torch.zeros_like(x)
        for _ in range(self.steps):
            attention = inner_products(h.view(shape), support).softmax(dim=-1).to(support)
            reading = (attention @ support).flatten(0, 1)
            hidden, cell = self.of_query(torch.cat([x, reading], dim=-1), (h, cell))
            h = hidden + x
        return h.view(shape)


class MatchingNets(nn.Module):
    """p(y | x, S) = sum over the support set of a(x, x_i) y_i, a the softmax of similarities.

    Args:
        encoder: any module from examples to vectors, the same for support and query.
        distance: "cosine", the paper's, or "euclidean": minus the squared Euclidean distance.
        context_steps: K of the full context embeddings; 0: without them.
        features: numbers in an embedding, which full context embeddings must know.
        scale: what similarities are multiplied by, 1 as in the paper. Cosines are within [-1, 1],
            so that with 1 no class ever gets a high probability.

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(
        self,
        encoder: nn.Module,
        distance: Distance = "cosine",
        context_steps: int = 0,
        features: int | None = None,
        scale: float = 1.0,
    ) -> None:
        check_types(MatchingNets.__init__, locals())
        check_counts(features=(features, 1))
        check_positive(scale=scale)
        super().__init__()
        if distance not in get_args(Distance):
            raise ValueError(
                f"`distance` must be one of {list(get_args(Distance))}, got {distance!r}."
            )
        if context_steps < 0:
            raise ValueError(f"`context_steps` must be at least 0, got {context_steps}.")
        if context_steps and features is None:
            raise ValueError("`features` must be given with `context_steps` > 0, got None.")
        self.encoder, self.distance, self.scale = checked_encoder(encoder), distance, scale
        self.context = FullContext(features, context_steps) if context_steps and features else None

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Log-probabilities of the classes, ``[T, Q, N]``."""
        features = None if self.context is None else self.context.over_support.input_size
        support, query = embedded(self.encoder, support_x, query_x, features)
        if self.context is not None:
            support, query = self.context(support, query)
        alike = similarities(query, support, self.distance)
        attention = (self.scale * alike).log_softmax(dim=-1)
        return by_class(attention, support_y, class_count(support_y)).logsumexp(dim=2)

    def training_loss(self, episode: Episode) -> Tensor:
        """Negative log-probability of the right class, mean over query examples."""
        return negative_log_likelihood(self(*episode[:3]), episode.query_y)
