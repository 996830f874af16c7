"""The embedding network of metric-based few-shot learning: four blocks of 3x3 conv, 2x2 pool.

That of matching nets (Vinyals et al., 2016, Sec. 4.1), which later work shares: each block has a
convolution, batch norm, ReLU and max-pooling, and what is left of the last map is flattened.
"""

from itertools import pairwise

from torch import Tensor, nn

from lightning_maml.argument_types import check_counts, check_shares, check_types
from lightning_maml.models.memory_layout import channels_last


class ConvEmbedding(nn.Module):
    """Images to vectors; 28x28 gives 64 numbers, 84x84 gives 1600.

    Batch norm is torch's: an image that is evaluated is normalised by running statistics of the
    training, so its embedding does not depend on what is beside it.

    Args:
        in_channels: channels of an image.
        channels: filters of each block.
        dropout: probability of dropping a number after each block.

    Raises:
        ValueError: naming the argument that is out of range or does not fit the images.
    """

    def __init__(self, in_channels: int = 1, channels: int = 64, dropout: float = 0.0) -> None:
        check_types(ConvEmbedding.__init__, locals())
        check_counts(in_channels=(in_channels, 1), channels=(channels, 1))
        check_shares(dropout=dropout)
        super().__init__()
        self.in_channels = in_channels
        widths = [in_channels, *[channels] * 4]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(before, after, 3, padding=1),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                    nn.MaxPool2d(2),
                    nn.Dropout(dropout),
                )
                for before, after in pairwise(widths)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W] -> [N, channels * (H // 16) * (W // 16)]``."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"Expected images [N, {self.in_channels}, height, width] (`in_channels`), "
                f"got shape {tuple(x.shape)}."
            )
        return self.blocks(channels_last(x)).flatten(1)
