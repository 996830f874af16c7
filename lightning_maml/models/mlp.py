"""The regression network (Sec. 5.1): by default 1-40-40-1 with ReLU."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.argument_types import check_types

Init = Literal["pytorch", "truncated_normal", "xavier_uniform"]


class MLP(nn.Module):
    """Linear layers with ReLU between them; parameters ``layers.<i>.*`` and ``head.*``.

    Args:
        in_features: size of an input.
        out_features: size of an output.
        hidden: sizes of the hidden layers.
        init: "pytorch" (default of `nn.Linear`), "truncated_normal" (the authors': sd 0.01, cut
            at two sd, zero biases; PyTorch's fits sinusoids better, see docs/departures.md) or
            "xavier_uniform" (their policies': zero biases).

    Raises:
        ValueError: if `init` is none of them, or a size is below 1.
    """

    def __init__(
        self,
        in_features: int = 1,
        out_features: int = 1,
        hidden: Sequence[int] = (40, 40),
        init: Init = "pytorch",
    ) -> None:
        check_types(MLP.__init__, locals())
        super().__init__()
        if init not in get_args(Init):
            raise ValueError(f"`init` must be one of {list(get_args(Init))}, got {init!r}.")
        given = {"in_features": [in_features], "out_features": [out_features], "hidden": hidden}
        for name, values in given.items():
            if any(value < 1 for value in values):
                raise ValueError(f"`{name}` must be at least 1, got {values}.")
        sizes = [in_features, *hidden]
        self.layers = nn.ModuleList(map(nn.Linear, sizes, sizes[1:]))
        self.head = nn.Linear(sizes[-1], out_features)
        self.init = init
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights that `init` names; PyTorch's are those of the layers themselves."""
        if self.init == "truncated_normal":
            self.apply(_truncated_normal)
        elif self.init == "xavier_uniform":
            self.apply(_xavier_uniform)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_features] -> [N, out_features]``."""
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(x)


def _truncated_normal(module: nn.Module, sd: float = 0.01) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=sd, a=-2 * sd, b=2 * sd)
        nn.init.zeros_(module.bias)


def _xavier_uniform(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
