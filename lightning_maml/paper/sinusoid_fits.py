"""Figures 2 and 7: fits of single sinusoids before and after adaptation, from what `test` kept."""

from typing import Any

from matplotlib.axes import Axes

from lightning_maml.paper.book import Book
from lightning_maml.paper.results import read_fits

TRUTH, POINTS = "ground truth", "points used for gradient steps"
LINES = {  # label, colour, line, width, by number of gradient steps
    0: ("pre-update", "#7a7a7a", ":", 1.6),
    1: ("1 gradient step", "#c0392b", "--", 1.6),
    10: ("10 gradient steps", "#1b6ca8", "-.", 1.8),
}


def fits_of(book: Book, name: str) -> list[dict[str, Any]] | None:
    """The first test tasks of an experiment, None if none were kept.

    Raises:
        ValueError: if the result names a file of fits that is malformed or not there.
    """
    chosen = book.get(name)
    if chosen is None or chosen.first.fits is None:
        return None
    return read_fits(chosen.first.fits)


def after(book: Book, name: str) -> str:
    """The number of meta-updates for a panel's title, where they are fewer than the paper's."""
    chosen = book.get(name)
    return f", {chosen.shortened} updates" if chosen is not None and chosen.shortened else ""


def draw_fit(axes: Axes, task: dict[str, Any]) -> None:
    """One task: truth, outputs before and after 1 and 10 steps, and the points used."""
    axes.plot(task["query_x"], task["query_y"], color="black", linewidth=1.2, label=TRUTH)
    for step, (label, color, line, width) in LINES.items():
        outputs = task["outputs"].get(str(step))
        if outputs is not None:
            values = [float("nan") if y is None else y for y in outputs]
            axes.plot(
                task["query_x"], values, color=color, linestyle=line, linewidth=width, label=label
            )
    axes.plot(
        task["support_x"], task["support_y"], linestyle="none", marker="^", markersize=6,
        color="#8e44ad", markeredgecolor="black", label=POINTS, zorder=5,
    )  # fmt: skip
    axes.grid(alpha=0.3)


def nothing_yet(axes: Axes) -> None:
    """A panel without a result says so."""
    axes.text(0.5, 0.5, "no result yet", ha="center", va="center", transform=axes.transAxes)
    axes.tick_params(left=False, labelleft=False)  # of this panel only, also where it shares them
