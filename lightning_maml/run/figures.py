"""Figures of a run, as pictures: the curve over inner steps, and a few adapted tasks.

Pictures are uint8 arrays ``[height, width, 3]``, drawn without any global state of matplotlib.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

Picture = npt.NDArray[np.uint8]
PER_ROW = 8
MOST_IMAGES = 32


def inner_step_curve(mean: Sequence[float], ci95: Sequence[float], metric: str) -> Picture:
    """The mean `metric` after 0, 1, ... inner steps, with its 95% confidence interval."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    finite = np.where(np.isfinite([mean, ci95]), [mean, ci95], np.nan)  # a gap where it diverged
    axes.errorbar(range(len(mean)), finite[0], yerr=finite[1], marker="o", capsize=3)
    axes.set_xlabel("inner steps")
    axes.set_ylabel(f"{metric} (mean, 95% CI)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    return picture(figure)


def fitted_curve(
    support: tuple[Tensor, Tensor], query: tuple[Tensor, Tensor], before: Tensor, after: Tensor
) -> Picture:
    """A regression of one number on one number: the truth, and the fit before and after adaptation.

    Shapes: all ``[examples, 1]``; `before` and `after` are outputs for the query examples.
    """
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    x, order = query[0].flatten().sort()
    for y, style, label in (
        (query[1], "k-", "truth"),
        (before, "C0:", "before adaptation"),
        (after, "C1-", "after adaptation"),
    ):
        axes.plot(x.numpy(), y.flatten()[order].numpy(), style, label=label)
    axes.plot(*(part.flatten().numpy() for part in support), "C3^", label="support")
    axes.set_xlabel("x")
    axes.set_ylabel("y")
    figure.legend(loc="outside upper center", ncols=2, fontsize="small")
    return picture(figure)


def classified_images(images: Tensor, true: Tensor, predicted: Tensor) -> Picture:
    """Images with their true and predicted classes, wrong ones in red.

    Shapes: ``images [examples, channels, height, width]`` in [0, 1] with 1 or 3 channels;
    ``true [examples]``, ``predicted [examples]``. Of many, an even choice is shown.
    """
    step = -(-len(images) // MOST_IMAGES)
    shown = range(0, len(images), step)
    columns = min(PER_ROW, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.2 * columns, 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid:
        axes.axis("off")
    for axes, i in zip(grid, shown, strict=False):
        axes.imshow(images[i].movedim(0, -1).squeeze(-1).clamp(0, 1).numpy(), cmap="gray")
        right = bool(true[i] == predicted[i])
        color = "black" if right else "red"
        axes.set_title(f"{int(true[i])}, got {int(predicted[i])}", fontsize=8, color=color)
    return picture(figure)


def picture(figure: Figure) -> Picture:
    """A figure as pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
