"""A classifier whose last layer is made from each task's support set (ProtoMAML, or from zero)."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lightning_maml.argument_types import check_counts, check_types
from lightning_maml.inner_loop import Params

Initial = Literal["prototypes", "zero"]


class EpisodeHead(nn.Module):
    """Any module that gives embeddings, and a linear layer with a row for each class of the task.

    The layer is no parameter: each task makes its own, which the inner loop then adapts, with all
    else that `adapts` names (``head.*`` is the layer, ``body.*`` the module). So training and test
    tasks may have different numbers of classes. How it starts:

    - "prototypes", ProtoMAML (Triantafillou et al. 2020): w_k = 2 c_k, b_k = -|c_k|^2, with c_k the
      mean embedding of the support examples of class k. The logits then are, up to what all
      classes share, minus the squared distances to the c_k; the body is meta-learned through them.
    - "zero": all classes alike. The first inner step then moves the layer alone.

    It must be the whole model, not a part of one. Outside of an episode there are no classes, and
    the output is ``[N, 0]``. With ``learn_inner_lr: per_weight`` classes share their step sizes.

    Args:
        body: any module that returns ``[N, features]``.
        features: size of an embedding.
        initial: "prototypes" or "zero".

    Raises:
        ValueError: for another `initial`; in `forward`, if the embeddings have another size.
    """

    made = ("head.weight", "head.bias")

    def __init__(self, body: nn.Module, features: int, initial: Initial = "prototypes") -> None:
        check_types(EpisodeHead.__init__, locals())
        check_counts(features=(features, 1))
        super().__init__()
        if initial not in get_args(Initial):
            raise ValueError(
                f"`initial` must be one of {list(get_args(Initial))}, got {initial!r}."
            )
        self.body = body
        self.head = _MadeLinear(features)
        self.features = features
        self.initial = initial

    def make(self, tensors: Params, x: Tensor, y: Tensor, n_way: int) -> Params:
        """The weight ``[n_way, features]`` and bias ``[n_way]`` before the first inner step.

        Shapes: ``x [support examples, ...]``, ``y [support examples]``; `tensors`: all parameters
        and buffers of this module but the layer's.
        """
        if self.initial == "zero":
            none = self.head.weight
            return {
                "head.weight": none.new_zeros(n_way, self.features),
                "head.bias": none.new_zeros(n_way),
            }
        inner = {n.removeprefix("body."): t for n, t in tensors.items() if n.startswith("body.")}
        embeddings = self._checked(functional_call(self.body, inner, (x,)))
        of_class = y == torch.arange(n_way, device=y.device).unsqueeze(1)
        with torch.autocast(x.device.type, enabled=False):  # the inner loop adds small steps to it
            embeddings = embeddings.to(self.head.weight.dtype)
            shares = of_class.to(embeddings.dtype)
            means = (shares / shares.sum(dim=1, keepdim=True)) @ embeddings
            return {"head.weight": 2 * means, "head.bias": -(means**2).sum(dim=1)}

    def forward(self, x: Tensor) -> Tensor:
        """``[N, ...] -> [N, n_way]``."""
        return self.head(self._checked(self.body(x)))

    def _checked(self, embeddings: Tensor) -> Tensor:
        if embeddings.ndim != 2 or embeddings.shape[1] != self.features:
            raise ValueError(
                f"`body` must return [N, {self.features}] (`features`), got shape "
                f"{list(embeddings.shape)}."
            )
        return embeddings


class _MadeLinear(nn.Module):
    """A linear layer for no classes, until an episode puts its own tensors in place."""

    weight: Tensor
    bias: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(0, features), persistent=False)
        self.register_buffer("bias", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)
