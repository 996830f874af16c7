"""Free parameters beside the input, the only ones that the inner loop changes (App. C.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_maml.argument_types import check_types


class ContextVector(nn.Module):
    """Concatenates free parameters z to the input of any module; ``adapts: ["context"]``.

    They start at zero. That the inner loop changes nothing else is a setting of it (`adapts`);
    all weights are meta-learned, and so is where z starts.

    `model` must take the larger input: `size` more features, ``[N, features + size]``, or more
    channels, ``[N, channels + size, H, W]``. For images there are two forms:

    - ``size: 2``: two numbers, each the same all over the image, in a channel of its own. Behind a
      convolution and batch norm only the image's border still shows them, since batch norm removes
      what all places and images have in common.
    - ``size: [1, 28, 28]``: an image of free numbers, as one more channel. It is what the configs
      take.

    Args:
        model: any module that returns one tensor.
        size: how many numbers, or their shape, ``[channels, ...]`` with the input's own axes.

    Raises:
        ValueError: if a size is below 1; in `forward`, if the input's shape does not fit.
    """

    def __init__(self, model: nn.Module, size: int | Sequence[int]) -> None:
        check_types(ContextVector.__init__, locals())
        super().__init__()
        shape = tuple(size) if isinstance(size, Sequence) else (int(size),)
        if not shape or min(shape) < 1:
            raise ValueError(f"`size` must be a number >= 1, or several, got {size!r}.")
        self.context = nn.Parameter(torch.zeros(shape))
        self.model = model

    def reset_parameters(self) -> None:
        """Back to zero."""
        nn.init.zeros_(self.context)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, features, ...]`` -> what `model` makes of ``[N, features + size, ...]``."""
        z: Tensor = self.context
        inner = x.shape[2:]
        if x.ndim < 2 or z.shape[1:] not in (torch.Size(), inner):
            raise ValueError(
                f"`size` must be a number, or [channels, {', '.join(map(str, inner))}] for an "
                f"input of shape {list(x.shape)}, got {list(z.shape)}."
            )
        if z.ndim == 1:
            z = z.view(-1, *[1] * len(inner))
        z = z.expand(x.shape[0], z.shape[0], *inner)
        return self.model(torch.cat([x, z.to(x.dtype)], dim=1))
