"""Nearest neighbour in the features of a pretrained network (Table 1, mini-ImageNet)."""

from torch import Tensor, nn

from lightning_maml.baselines.embedded_sets import cosines


def class_similarities(support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Of each query example and class, the highest cosine similarity to a support example of it.

    The largest is that of the class of the nearest support example (one neighbour, however many
    shots there are). A class without support examples has -1, the lowest there is.

    Shapes: ``support [S, features]``, ``labels [S]`` below `n_way`, ``query [Q, features]``
    -> ``[Q, n_way]``.
    """
    similarities = cosines(query, support)
    lowest = similarities.new_full((len(query), n_way), -1.0)
    return lowest.scatter_reduce(1, labels.expand_as(similarities), similarities, "amax")


class Neighbours(nn.Module):
    """Answers by the neighbours among the support examples of one task.

    Args:
        features: ``[N, ...]`` -> ``[N, features]``.
        support_x: ``[S, ...]``.
        support_y: class numbers ``[S]``, below `n_way`.
        n_way: number of classes.
    """

    support: Tensor
    labels: Tensor

    def __init__(
        self, features: nn.Module, support_x: Tensor, support_y: Tensor, n_way: int
    ) -> None:
        super().__init__()
        self.features, self.n_way = features, n_way
        self.register_buffer("support", features(support_x))
        self.register_buffer("labels", support_y)

    def forward(self, x: Tensor) -> Tensor:
        """Similarity to each class: ``[N, ...]`` -> ``[N, n_way]``."""
        return class_similarities(self.support, self.labels, self.features(x), self.n_way)
