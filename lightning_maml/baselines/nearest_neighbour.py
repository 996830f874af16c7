"""Nearest neighbour in the features of a pretrained network (Table 1, mini-ImageNet)."""

from torch import Tensor

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
