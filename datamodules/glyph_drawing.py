"""Characters that nobody has drawn: a few random curves each, a little different in each drawing.

A stroke is a cubic Bezier curve; a character is drawn in the square [-1, 1]^2, x to the right and
y downwards. From uniform numbers on there are only sums, products and square roots, one at a time,
which every machine rounds alike: so are the pixels.
"""

import numpy as np

from datamodules.image_reading import Pixels
from datamodules.sampling import Floats, uniforms

SIZE = 28
FEWEST, MOST = 2, 4  # strokes of a character, each number equally likely
BEND = 0.6  # how far a stroke's inner control points are from the straight line
REACH = 9.0  # pixels from the middle to the edge of the square
JITTER = 0.15  # how far a drawing moves a control point
MAP = 0.25  # how far the entries of a drawing's linear map are from those of the identity
SHIFT = 2.0  # how many pixels it moves the whole
PEN = (1.8, 3.0)  # ink per length, thin and thick

CONTROL = 4  # points of a cubic curve
PIECES = 32  # of a curve, straight
MARGIN = 3  # pixels around the image that the ink may run to
CLASSES_AT_ONCE = 25  # bounds the memory
STREAM_OF_CLASSES, STREAM_OF_DRAWINGS = 2, 3  # 0 and 1 are those of tasks
MAX_DRAWINGS = 2**20  # of a class: its drawings have consecutive numbers among those of all

# C classes, D drawings, S strokes, P points of a curve; an axis of 2 is x, y


def draw_characters(seed: int, split: str, first: int, classes: int, drawings: int) -> Pixels:
    """Consecutive classes of a split, ``[C, D, 1, 28, 28]`` uint8, ink 255 on paper 0.

    Drawing d of class c depends on (seed, split, c, d) alone.
    """
    images = np.empty((classes, drawings, 1, SIZE, SIZE), dtype=np.uint8)
    for start in range(0, classes, CLASSES_AT_ONCE):
        part = images[start : start + CLASSES_AT_ONCE]
        strokes, there = class_strokes(seed, split, first + start, len(part))
        curves, pen = _drawn(strokes, seed, split, first + start, drawings)
        ink = pen[..., None] * there[:, None]
        part[:, :, 0] = _splat(curves, ink)
    return images


def class_strokes(seed: int, split: str, first: int, classes: int) -> tuple[Floats, Floats]:
    """Control points ``[C, S, 4, 2]`` of consecutive classes; 1 or 0 for strokes (not) there.

    The ends of a stroke are anywhere in the square; the inner points are a third of the way
    from one to the other, and off it by at most `BEND`.
    """
    draws = uniforms(seed, split, first, classes, 1 + MOST * CONTROL * 2, stream=STREAM_OF_CLASSES)
    strokes = FEWEST + np.floor(draws[:, :1] * (MOST - FEWEST + 1))
    there = (np.arange(MOST) < strokes).astype(np.float64)
    random = 2 * draws[:, 1:].reshape(classes, MOST, CONTROL, 2) - 1
    start, end = random[:, :, 0], random[:, :, 3]
    inner = [
        start + (end - start) * (k / 3) + BEND * random[:, :, k] for k in range(1, CONTROL - 1)
    ]
    return np.stack([start, *inner, end], axis=2), there


def _drawn(
    strokes: Floats, seed: int, split: str, first: int, drawings: int
) -> tuple[Floats, Floats]:
    """Control points of each drawing in pixels, ``[C, D, S, 4, 2]``, and its pen ``[C, D]``."""
    classes, of_points = len(strokes), strokes[0].size
    draws = np.stack(
        [
            uniforms(seed, split, c * MAX_DRAWINGS, drawings, of_points + 7, STREAM_OF_DRAWINGS)
            for c in range(first, first + classes)
        ]
    )
    moves, maps, shift, pen = np.split(2 * draws - 1, of_points + np.array([0, 4, 6]), axis=-1)
    points = strokes[:, None] + JITTER * moves.reshape(classes, drawings, *strokes.shape[1:])
    maps = np.eye(2) + MAP * maps.reshape(classes, drawings, 1, 1, 2, 2)
    x, y = points[..., :1], points[..., 1:]
    points = REACH * (maps[..., 0] * x + maps[..., 1] * y)
    thin, thick = PEN
    pen = (thin + thick) / 2 + (thick - thin) / 2 * pen[..., 0]
    return points + (SIZE - 1) / 2 + SHIFT * shift[:, :, None, None], pen


def _splat(points: Floats, ink: Floats) -> Pixels:
    """Images of curves ``[C, D, S, 4, 2]`` with so much ink per length, ``[C, D, S]``.

    Each piece of a curve leaves its ink on the four pixels around its middle; blurred, and full
    where it would be more, that is a smooth line.
    """
    curve = _bezier(points)
    step = np.diff(curve, axis=-2)
    length = np.sqrt(step[..., 0] * step[..., 0] + step[..., 1] * step[..., 1])
    side = SIZE + 2 * MARGIN
    images = ink.shape[0] * ink.shape[1]
    middle = (curve[..., 1:, :] + curve[..., :-1, :]) / 2 + MARGIN
    middle = np.clip(middle, 0, side - 1.5).reshape(images, -1, 2)
    amount = (length * ink[..., None]).reshape(images, -1)
    corner = middle.astype(np.int64)
    right, down = np.moveaxis(middle - corner, -1, 0)
    place = (np.arange(images)[:, None] * side + corner[..., 1]) * side + corner[..., 0]
    canvas = np.zeros(images * side * side)
    for offset, share in (
        (0, (1 - right) * (1 - down)),
        (1, right * (1 - down)),
        (side, (1 - right) * down),
        (side + 1, right * down),
    ):
        where, weight = (place + offset).reshape(-1), (amount * share).reshape(-1)
        canvas += np.bincount(where, weight, len(canvas))
    blurred = _blur(_blur(canvas.reshape(images, side, side)).swapaxes(1, 2)).swapaxes(1, 2)
    inside = blurred[:, MARGIN - 1 : 1 - MARGIN, MARGIN - 1 : 1 - MARGIN]
    pixels = np.floor(255 * np.minimum(inside, 1) + 0.5).astype(np.uint8)
    return pixels.reshape(*ink.shape[:2], SIZE, SIZE)


def _bezier(points: Floats) -> Floats:
    """Points ``[..., P, 2]`` of the curves with control points ``[..., 4, 2]``."""
    t = (np.arange(PIECES + 1) / PIECES)[:, None]
    s = 1 - t
    a, b, c, d = (points[..., k, None, :] for k in range(CONTROL))
    return s * s * s * a + 3 * s * s * t * b + 3 * s * t * t * c + t * t * t * d


def _blur(rows: Floats) -> Floats:
    """Weights 1/4, 1/2, 1/4 along axis 1, which loses a pixel at each end."""
    return (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4
