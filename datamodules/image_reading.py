"""One image file to uint8 pixels, whatever mode it is stored in."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

Pixels = npt.NDArray[np.uint8]

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ImageSpec:
    """What every image of a data set becomes.

    Attributes:
        size: height and width; other sizes are resized (Lanczos), without keeping the aspect
        channels: 3 for RGB, 1 for grey
        invert: dark ink on white paper becomes bright on black
    """

    size: int
    channels: int
    invert: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"`size` must be at least 1, got {self.size}.")
        if self.channels not in (1, 3):
            raise ValueError(f"`channels` must be 1 (grey) or 3 (RGB), got {self.channels}.")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.size, self.size


def read_image(path: Path, spec: ImageSpec) -> Pixels:
    """The pixels of an image file, ``[C, H, W]``.

    Photos are turned upright as their EXIF orientation says. Transparent images are laid on white
    paper, so an opaque one keeps its colours; 16-bit grey is scaled to 8 bits; grey becomes three
    equal channels; palettes and CMYK become RGB.

    Raises:
        ValueError: with the path, if the file is missing, corrupt, cut off or of floats.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return to_pixels(ImageOps.exif_transpose(image), spec)
    except UNREADABLE as error:
        raise ValueError(f"cannot read the image {path}: {error}") from error


def to_pixels(image: Image.Image, spec: ImageSpec) -> Pixels:
    """An image as `spec` says, ``[C, H, W]``."""
    image = _on_paper(_as_8_bit(image)).convert("L" if spec.channels == 1 else "RGB")
    if image.size != (spec.size, spec.size):
        image = image.resize((spec.size, spec.size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.uint8).reshape(spec.size, spec.size, spec.channels)
    pixels = pixels.transpose(2, 0, 1)
    return 255 - pixels if spec.invert else pixels


def _as_8_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 bits to 8, 65535 to 255. (Pillow's own conversion clips at 255.)"""
    if image.mode == "F":
        raise ValueError("it holds floats; convert it to 8 or 16 bits per channel")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"its values are not of 16 bits: {values.min()} to {values.max()}")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _on_paper(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "PA", "La", "RGBA", "RGBa") and "transparency" not in image.info:
        return image
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA"))
