"""The Omniglot classifier without convolutions (Sec. 5.2): 256, 128, 64, 64."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.argument_types import check_counts, check_types
from lightning_maml.models.batch_norm import EpisodeBatchNorm


class DenseLayer(nn.Module):
    """Linear layer, batch norm, ReLU."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.norm = EpisodeBatchNorm(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_features] -> [N, out_features]``."""
        return F.relu(self.norm(self.linear(x)))


class OmniglotDense(nn.Module):
    """Dense layers with transductive batch norm (batch_norm.py), then a linear layer.

    Parameters are named ``layers.<i>.linear.*``, ``layers.<i>.norm.bias`` and ``head.*``. The
    authors adapt all but the batch-norm offsets: ``adapts: ["*.linear.*", "head.*"]``.

    Args:
        n_way: number of outputs.
        image_size: height and width of an image.
        hidden: sizes of the hidden layers.
        in_channels: channels of an image.
    """

    def __init__(
        self,
        n_way: int,
        image_size: int = 28,
        hidden: Sequence[int] = (256, 128, 64, 64),
        in_channels: int = 1,
    ) -> None:
        check_types(OmniglotDense.__init__, locals())
        check_counts(n_way=(n_way, 1), image_size=(image_size, 1), in_channels=(in_channels, 1))
        if min(hidden, default=1) < 1:
            raise ValueError(f"`hidden` must be numbers >= 1, got {hidden}.")
        super().__init__()
        sizes = [in_channels * image_size**2, *hidden]
        self.layers = nn.ModuleList(map(DenseLayer, sizes, sizes[1:]))
        self.head = nn.Linear(sizes[-1], n_way)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, image_size, image_size] -> [N, n_way]``."""
        x = x.flatten(1)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)
