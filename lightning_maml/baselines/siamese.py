"""Siamese nets (Koch, Zemel, Salakhutdinov, 2015): are two images of the same class?"""

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.argument_types import check_counts, check_types
from lightning_maml.baselines.embedded_sets import by_class, checked_encoder, class_count, embedded
from lightning_maml.episode import Episode

ClassScore = Literal["mean", "nearest"]


class SiameseNets(nn.Module):
    """p(same class) = sigmoid(w |f(a) - f(b)| + b), the distance elementwise (Sec. 3.1).

    A query gets the class whose support examples are the most probably of the same class as it.

    Args:
        encoder: f, any module from examples to vectors.
        features: numbers in a vector.
        class_score: probability of a class with several support examples: their "mean", or that
            of the "nearest".

    Raises:
        ValueError: naming the argument that is out of range.
    """

    def __init__(
        self, encoder: nn.Module, features: int = 64, class_score: ClassScore = "mean"
    ) -> None:
        check_types(SiameseNets.__init__, locals())
        check_counts(features=(features, 1))
        super().__init__()
        if class_score not in get_args(ClassScore):
            raise ValueError(
                f"`class_score` must be one of {list(get_args(ClassScore))}, got {class_score!r}."
            )
        self.encoder, self.class_score = checked_encoder(encoder), class_score
        self.same = nn.Linear(features, 1)

    def pair_logits(self, query: Tensor, support: Tensor) -> Tensor:
        """Log-odds of the same class: ``[T, Q, D]``, ``[T, S, D]`` -> ``[T, Q, S]``."""
        return self.same((query[:, :, None] - support[:, None]).abs()).squeeze(-1)

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Logarithm of each class's share of the probabilities, ``[T, Q, N]``."""
        support, query = self._embedded(support_x, query_x)
        log_same = F.logsigmoid(self.pair_logits(query, support))
        of_classes = by_class(log_same, support_y, class_count(support_y))
        if self.class_score == "nearest":
            scores = of_classes.amax(dim=2)
        else:
            counts = F.one_hot(support_y).sum(dim=1)
            scores = of_classes.logsumexp(dim=2) - counts.to(log_same).log()[:, None]
        return scores.log_softmax(dim=-1)

    def training_loss(self, episode: Episode) -> Tensor:
        """Binary cross-entropy over all pairs of a query with a support example.

        Pairs of the same and of different classes weigh the same in sum, however many ways there
        are; the original draws as many of each.

        Raises:
            ValueError: naming `support_y`, if tasks have one class, and so no pairs of different.
        """
        if class_count(episode.support_y) < 2:
            raise ValueError(
                "`support_y` must hold at least 2 classes (`n_way`), as training needs pairs of "
                "different classes, got 1."
            )
        support, query = self._embedded(episode.support_x, episode.query_x)
        logits = self.pair_logits(query, support)
        same = episode.query_y[:, :, None] == episode.support_y[:, None]
        return (F.softplus(-logits[same]).mean() + F.softplus(logits[~same]).mean()) / 2

    def _embedded(self, support_x: Tensor, query_x: Tensor) -> tuple[Tensor, Tensor]:
        return embedded(self.encoder, support_x, query_x, self.same.in_features)
