"""Images of every mode become the pixels asked for (A24)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.image_reading import ImageSpec, read_image

RGB = ImageSpec(size=16, channels=3)
GREY = ImageSpec(size=16, channels=1)


@pytest.fixture
def colours() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("1", "png"),
        ("L", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("RGB", "png"),
        ("RGBA", "png"),
        ("CMYK", "jpg"),
        ("CMYK", "tif"),
        ("I;16", "png"),
        ("I", "tif"),
        ("YCbCr", "jpg"),
    ],
)
def test_every_mode_is_read(tmp_path: Path, colours: Image.Image, mode: str, ending: str) -> None:
    """A24: the shape is as `channels` says, and the picture is the same, not clipped or black."""
    wide = mode.startswith("I")
    image = colours.convert("L")
    if wide:
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
        image = image.convert("I") if mode == "I" else image
    elif mode not in ("1", "L", "LA"):
        image = colours
    path = save(image if wide else image.convert(mode), tmp_path / f"image.{ending}")
    for spec in (RGB, GREY):
        pixels = read_image(path, spec)
        assert pixels.shape == spec.shape
        assert pixels.dtype == np.uint8
        assert 90 < pixels.mean() < 160
        assert pixels.std() > 30


def test_opaque_transparency_changes_nothing(tmp_path: Path, colours: Image.Image) -> None:
    """A24: an opaque RGBA image is its RGB version, the largest difference is 0."""
    expected = np.asarray(colours).transpose(2, 0, 1)
    opaque = save(colours.convert("RGBA"), tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(opaque, RGB), expected)
    np.testing.assert_array_equal(read_image(save(colours, tmp_path / "plain.png"), RGB), expected)


def test_grey_is_three_equal_channels(tmp_path: Path, colours: Image.Image) -> None:
    """A24, also for 16 bits: 257 v becomes v."""
    grey = np.asarray(colours.convert("L"))
    for image in (
        Image.fromarray(grey),
        Image.fromarray(grey).convert("LA"),
        Image.fromarray(grey.astype(np.uint16) * 257),
    ):
        path = save(image, tmp_path / "grey.png")
        np.testing.assert_array_equal(read_image(path, RGB), np.stack([grey] * 3))
        np.testing.assert_array_equal(read_image(path, GREY), grey[None])


def test_palette_colours_are_kept(tmp_path: Path) -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([255, 255, 255, 10, 200, 30])
    pixels = read_image(save(image, tmp_path / "palette.png"), RGB)
    assert (pixels == np.array([10, 200, 30])[:, None, None]).all()


def test_cmyk_colours_are_kept(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    pixels = read_image(save(image, tmp_path / "red.tif"), RGB)
    assert pixels[0].min() > 220
    assert pixels[1:].max() < 60


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    hidden = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    assert (read_image(save(hidden, tmp_path / "rgba.png"), RGB) == 255).all()
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (read_image(tmp_path / "palette.png", RGB) == 255).all()


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda image: image),
        (3, lambda image: image[:, ::-1, ::-1]),
        (6, lambda image: np.rot90(image, -1, axes=(1, 2))),  # a phone held upright
        (8, lambda image: np.rot90(image, 1, axes=(1, 2))),
    ],
)
def test_photos_are_turned_upright(
    tmp_path: Path, colours: Image.Image, orientation, turned
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    colours.save(tmp_path / "photo.png", exif=exif)
    plain = read_image(save(colours, tmp_path / "plain.png"), RGB)
    np.testing.assert_array_equal(read_image(tmp_path / "photo.png", RGB), turned(plain))


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_cut_off_file_is_named(tmp_path: Path, colours: Image.Image, ending: str) -> None:
    """A24: an error with the path."""
    path = save(colours.resize((200, 200)), tmp_path / f"cut.{ending}")
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=rf"cannot read the image .*cut\.{ending}"):
            read_image(path, RGB)


def test_floats_are_refused(tmp_path: Path) -> None:
    path = save(Image.fromarray(np.zeros((16, 16), np.float32)), tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif: it holds floats"):
        read_image(path, RGB)


def test_inverted_and_resized(tmp_path: Path) -> None:
    paper = Image.new("1", (105, 105), 1)
    paper.paste(0, (0, 0, 105, 50))
    pixels = read_image(save(paper, tmp_path / "ink.png"), ImageSpec(28, 1, invert=True))
    assert pixels.shape == (1, 28, 28)
    assert pixels[0, :12].min() > 240  # Lanczos overshoots a little
    assert pixels[0, 15:].max() < 15


@pytest.mark.parametrize(("size", "channels", "name"), [(0, 3, "size"), (8, 4, "channels")])
def test_wrong_spec_is_refused(size: int, channels: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        ImageSpec(size, channels)
