"""The convolutional classifiers (Sec. 5.2): four blocks of 3x3 conv, batch norm, ReLU."""

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.argument_types import check_counts, check_types
from lightning_maml.models.batch_norm import EpisodeBatchNorm
from lightning_maml.models.memory_layout import channels_last


class Conv4Block(nn.Module):
    """3x3 convolution, batch norm, ReLU, and 2x2 max-pooling if it is not strided."""

    def __init__(self, in_channels: int, channels: int, strided: bool) -> None:
        super().__init__()
        # TensorFlow's SAME pads an even size only below and to the right at stride 2; padding on
        # all sides gives the same sizes, each window one pixel further to the upper left.
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=2 if strided else 1, padding=1)
        self.norm = EpisodeBatchNorm(channels)
        self.strided = strided

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W] -> [N, channels, H / 2, W / 2]``."""
        x = F.relu(self.norm(self.conv(x)))
        return x if self.strided else F.max_pool2d(x, 2)


class Conv4(nn.Module):
    """Four convolution blocks and a linear layer; batch norm is transductive (batch_norm.py).

    The defaults are the paper's network for Omniglot. Its network for mini-ImageNet is
    ``Conv4(n_way, in_channels=3, channels=32, image_size=84, downsample="max_pool",
    head="flatten")``, whose maps go 84, 42, 21, 10, 5.

    Parameters are named ``blocks.<i>.conv.*``, ``blocks.<i>.norm.bias`` and ``head.*``. The
    authors adapt all but the batch-norm offsets: ``adapts: ["*.conv.*", "head.*"]``.

    Args:
        n_way: number of outputs; ``None``: no linear layer, the output is what it would see.
        in_channels: channels of an image.
        channels: filters of each block.
        image_size: height and width of an image.
        downsample: "stride" (convolutions of stride 2, sizes rounded up) or "max_pool" (2x2,
            sizes rounded down).
        head: what the linear layer sees of the last map: its "mean" over space, or all of it
            ("flatten").

    Raises:
        ValueError: for another `downsample` or `head`, or an `image_size` with nothing left of it.
    """

    def __init__(
        self,
        n_way: int | None,
        in_channels: int = 1,
        channels: int = 64,
        image_size: int = 28,
        downsample: Literal["stride", "max_pool"] = "stride",
        head: Literal["mean", "flatten"] = "mean",
    ) -> None:
        check_types(Conv4.__init__, locals())
        check_counts(n_way=(n_way, 1), in_channels=(in_channels, 1), channels=(channels, 1))
        super().__init__()
        if downsample not in ("stride", "max_pool"):
            raise ValueError(f'`downsample` must be "stride" or "max_pool", got {downsample!r}.')
        if head not in ("mean", "flatten"):
            raise ValueError(f'`head` must be "mean" or "flatten", got {head!r}.')
        strided = downsample == "stride"
        smallest = 1 if strided else 16
        if image_size < smallest:
            raise ValueError(
                f"`image_size` must be at least {smallest} with four times "
                f'`downsample: "{downsample}"`, got {image_size}.'
            )
        self.image_shape = (in_channels, image_size, image_size)
        widths = [in_channels, *[channels] * 4]
        self.blocks = nn.ModuleList(
            Conv4Block(before, after, strided) for before, after in pairwise(widths)
        )
        self.channels_last = not strided  # which makes maps small at once
        self.mean = head == "mean"
        last = -(-image_size // 16) if strided else image_size // 16
        features = channels if self.mean else channels * last**2
        self.head = nn.Identity() if n_way is None else nn.Linear(features, n_way)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, image_size, image_size] -> [N, n_way]``."""
        if x.shape[1:] != self.image_shape:
            raise ValueError(
                f"Expected images [N, {', '.join(map(str, self.image_shape))}] (`in_channels`, "
                f"`image_size`), got shape {tuple(x.shape)}."
            )
        if self.channels_last:
            x = channels_last(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)) if self.mean else x.flatten(1))
