"""Generated characters: a function of their numbers, alike within a class, and the lines drawn."""

import hashlib
import pickle
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import Glyphs
from datamodules.glyph_drawing import JITTER, _splat, class_strokes, draw_characters
from datamodules.split_checks import check_disjoint_images

SMALL: dict[str, Any] = {"characters": (8, 5, 6), "drawings": 6}


def line(*points: tuple[float, float]) -> np.ndarray:
    """A curve with these four control points, as one drawing of one class of one stroke."""
    return np.array(points, dtype=np.float64).reshape(1, 1, 1, 4, 2)


def ink(points: np.ndarray, per_length: float) -> np.ndarray:
    """Ink of each pixel, ``[28, 28]``, rows from above."""
    return _splat(points, np.full((1, 1, 1), per_length))[0, 0] / 255


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Between any image of the one and any of the other, each ``[images, pixels]``."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0))


# -- numbers -----------------------------------------------------------------------------------


def test_a_drawing_depends_on_its_numbers_alone() -> None:
    """Whatever is drawn with it, before it or after it."""
    together = draw_characters(3, "val", first=0, classes=60, drawings=6)
    assert together.shape == (60, 6, 1, 28, 28)
    for first in (41, 0, 24):
        alone = draw_characters(3, "val", first, classes=3, drawings=2)
        np.testing.assert_array_equal(alone, together[first : first + 3, :2])
    for seed, split in ((4, "val"), (3, "train"), (3, "test")):
        assert (draw_characters(seed, split, 0, 3, 2) != together[:3, :2]).any((2, 3, 4)).all()


def test_characters_are_those_of_any_other_machine() -> None:
    """The digest was made by another process; another one means another data set."""
    pixels = draw_characters(0, "train", first=0, classes=3, drawings=5)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "e8404c8c647c7dad"


def test_all_drawings_differ() -> None:
    images = draw_characters(0, "test", first=0, classes=100, drawings=20).reshape(2000, -1)
    assert len({image.tobytes() for image in images}) == 2000
    assert images.max(axis=1).min() > 200
    assert 0.03 < images.mean() / 255 < 0.2


# -- classes -----------------------------------------------------------------------------------


def test_no_class_is_another_one() -> None:
    """Of classes in different splits some control point is farther apart than drawings move it."""
    sizes = {"train": 1200, "val": 100, "test": 400}
    splits = [class_strokes(0, split, 0, classes) for split, classes in sizes.items()]
    for (points, there), (others, there_too) in combinations(splits, 2):
        for strokes in (2, 3, 4):
            one = points[there.sum(1) == strokes][:, None, :strokes]
            other = others[there_too.sum(1) == strokes][None, :, :strokes]
            assert len(one) > len(points) / 5
            assert np.abs(one - other).max((2, 3, 4)).min() > 2 * JITTER


def test_splits_share_no_picture() -> None:
    data = Glyphs(characters=(200, 100, 100))
    images = data.class_images()
    check_disjoint_images(images)
    names = [set(of_split.names) for of_split in images.values()]
    assert len(set.union(*names)) == 400


def test_drawings_of_a_class_are_nearer_to_each_other() -> None:
    images = draw_characters(0, "test", first=0, classes=60, drawings=10)
    flat = images.reshape(600, -1) / 255.0
    apart = distances(flat, flat).reshape(60, 10, 60, 10).mean((1, 3))
    within = np.diag(apart) * 10 / 9  # without the distance of each to itself
    between = (apart.sum(1) - np.diag(apart)) / 59
    assert (within < between).all()
    assert within.mean() < 0.85 * between.mean()


def test_pixels_alone_do_not_tell_the_class() -> None:
    """The nearest of five pictures is of the right class more often than not, but no more."""
    data = Glyphs()
    data.setup()
    episode = data.tasks["test"](0, 300)
    right = []
    for task in range(episode.tasks):
        x, near, labels = (part[task].numpy() for part in (episode.query_x, *episode[:2]))
        apart = distances(x.reshape(5, -1) / 255.0, near.reshape(5, -1) / 255.0)
        right.append((labels[apart.argmin(1)] == episode.query_y[task].numpy()).mean())
    assert 0.55 < np.mean(right) < 0.75


# -- lines -------------------------------------------------------------------------------------


def test_a_straight_line_is_where_it_should_be() -> None:
    """From (5, 10) to (23, 10): 18 pixels, and as much ink as its length times that per length."""
    pixels = ink(line((5, 10), (11, 10), (17, 10), (23, 10)), 1.0)
    assert pixels.sum() == pytest.approx(18, rel=0.01)
    assert pixels.sum(1)[9:12] == pytest.approx(18 * np.array([0.25, 0.5, 0.25]), rel=0.02)
    assert pixels[10, 7:22] == pytest.approx(0.5, abs=0.06)
    assert (pixels.sum(0) * np.arange(28)).sum() / pixels.sum() == pytest.approx(14, abs=0.01)
    assert pixels[:9].max() == pixels[12:].max() == 0


def test_ink_is_the_arc_length_and_stays_near_the_curve() -> None:
    """Beside a fine polyline of the curve's own formula."""
    points = line((4.3, 20.1), (2.0, 3.3), (27.0, 8.8), (15.6, 23.9))
    t = np.linspace(0, 1, 10_001)[:, None]
    a, b, c, d = points[0, 0, 0]
    curve = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
    length = np.linalg.norm(np.diff(curve, axis=0), axis=1).sum()
    assert ink(points, 0.8).sum() == pytest.approx(0.8 * length, rel=0.01)
    pixels = ink(points, 3.0)
    rows, columns = np.mgrid[:28, :28]
    place = np.stack([columns, rows], axis=-1).reshape(-1, 1, 2)
    nearest = np.linalg.norm(place - curve[::20], axis=-1).min(1).reshape(28, 28)
    assert pixels[nearest < 0.5].min() > 0.6
    assert pixels[nearest > 2.9].max() == 0


def test_ink_beyond_the_image_is_cut_off() -> None:
    pixels = ink(line((14, 14), (24, 14), (34, 14), (44, 14)), 1.0)
    assert pixels[:, :20].sum() == pytest.approx(19.5 - 14, rel=0.01)  # a pixel ends at a half
    assert pixels.sum() == pytest.approx(27.5 - 14, rel=0.01)
    assert ink(line((40, 40), (50, 40), (50, 50), (60, 60)), 3.0).max() == 0


# -- the datamodule ----------------------------------------------------------------------------


def test_episodes_are_of_the_characters() -> None:
    data = Glyphs(**SMALL, n_way=3, k_shot=2, query_shot=4)
    images = data.class_images()["train"]
    batch = next(iter(data.train_dataloader()))
    assert batch.support_x.shape == (16, 6, 1, 28, 28)
    assert batch.query_y.shape == (16, 12)
    drawn = {image.numpy().tobytes(): number for number, image in enumerate(images.images)}
    for x, y in zip(batch.query_x, batch.query_y, strict=True):
        classes = [drawn[image.numpy().tobytes()] // 6 for image in x]
        assert len({(c, label) for c, label in zip(classes, y.tolist(), strict=True)}) == 3
    batch = data.on_after_batch_transfer(batch, 0)
    assert batch.support_x.dtype == torch.float32
    assert batch.support_x.min() == 0
    assert batch.support_x.max() == 1


def test_the_alphabet_is_apart_from_the_seed() -> None:
    first, same, other = (
        Glyphs(**SMALL, **settings).class_images()["test"].images
        for settings in ({}, {"seed": 5}, {"alphabet": 5})
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_worker_process_gets_the_same_images() -> None:
    """Where processes are not forked they come as a pickle."""
    images = Glyphs(**SMALL).class_images()["val"]
    copy = pickle.loads(pickle.dumps(images))
    assert torch.equal(images.images, copy.images)
    assert copy.names == ("val/0", "val/1", "val/2", "val/3", "val/4")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"characters": (10, 10)}, "`characters` must be three numbers"),
        ({"characters": (10, 0, 10)}, "`characters` must be an integer of at least 1, got 0"),
        ({"drawings": 1}, "`drawings` must be an integer of at least 2, got 1"),
        ({"alphabet": -1}, "`alphabet` must be an integer from 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Glyphs(**settings)


def test_too_few_characters_or_drawings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`n_way` must be at most 5 \(classes in the val split"):
        Glyphs(**SMALL, n_way=6).setup()
    with pytest.raises(ValueError, match=r"at most 6 \(images of the class 'train/0'"):
        Glyphs(**SMALL, query_shot=6).setup()
