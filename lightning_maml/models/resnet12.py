"""ResNet-12, the larger network that few-shot papers compare on (from Mishra et al. 2018 on)."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.argument_types import check_counts, check_types
from lightning_maml.models.batch_norm import EpisodeBatchNorm


class ConvNorm(nn.Module):
    """A convolution without offset, and batch norm with scale and offset."""

    def __init__(self, in_channels: int, channels: int, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, size, padding=size // 2, bias=False)
        self.norm = EpisodeBatchNorm(channels, scale=True)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W] -> [N, channels, H, W]``."""
        return self.norm(self.conv(x))


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions beside a 1x1 one, leaky ReLU, and 2x2 max-pooling."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConvNorm(before, channels, 3) for before in (in_channels, channels, channels)
        )
        self.shortcut = ConvNorm(in_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W] -> [N, channels, H / 2, W / 2]``, sizes rounded down."""
        first, second, third = self.layers
        inner = F.leaky_relu(second(F.leaky_relu(first(x), 0.1)), 0.1)
        return F.max_pool2d(F.leaky_relu(third(inner) + self.shortcut(x), 0.1), 2)


class ResNet12(nn.Module):
    """Four residual blocks, the mean over space, and a linear layer.

    Batch norm is transductive (batch_norm.py), with scale and offset. There is no DropBlock, which
    some use in it. Images are square or not, of at least 16 pixels; 84x84 end as 5x5 maps.

    Parameters are named ``blocks.<i>.layers.<j>.conv.weight``, ``...norm.*``, the same of
    ``blocks.<i>.shortcut``, and ``head.*``.

    Args:
        n_way: number of outputs; ``None``: no linear layer, the output has the last width.
        in_channels: channels of an image.
        widths: filters of each block; ``[64, 160, 320, 640]`` is the other choice of the field.
    """

    def __init__(
        self,
        n_way: int | None,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        check_types(ResNet12.__init__, locals())
        check_counts(n_way=(n_way, 1), in_channels=(in_channels, 1))
        if not widths or min(widths) < 1:
            raise ValueError(f"`widths` must be numbers >= 1, at least one, got {widths}.")
        super().__init__()
        self.blocks = nn.Sequential(
            *(ResidualBlock(before, after) for before, after in pairwise([in_channels, *widths]))
        )
        self.head = nn.Identity() if n_way is None else nn.Linear(widths[-1], n_way)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W] -> [N, n_way]``."""
        return self.head(self.blocks(x).mean(dim=(2, 3)))
