"""Figures 3 and 6: mean squared error after 0 .. 10 gradient steps, per number of points K."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from lightning_maml.paper.book import Book
from lightning_maml.paper.drawing import (
    common_legend,
    draw_ours,
    draw_reported,
    label_steps,
    new_figure,
)
from lightning_maml.paper.reported import REGRESSION, curve

METHODS = ("MAML", "pretrained", "oracle")
STEPS, TOP = 10, 20.0


def experiments(shots: Sequence[int]) -> list[str]:
    """Names of what fills the figure."""
    return [f"sinusoid_{method.lower()}_k{k}" for k in shots for method in METHODS]


def step_curves(figure_name: str, shots: Sequence[int], book: Book) -> Figure:
    """One panel per K. The error axis is logarithmic: MAML and the oracle lie far below."""
    figure = new_figure(max(6.0, 4.2 * len(shots)), 4.8)
    panels = figure.subplots(1, len(shots), squeeze=False, sharey=True)[0]
    for axes, k in zip(panels, shots, strict=True):
        axes.set_yscale("log")
        for method in METHODS:
            if (chosen := book.get(f"sinusoid_{method.lower()}_k{k}")) is not None:
                draw_ours(axes, method, chosen, STEPS, TOP)
            if (reported := curve(REGRESSION, method, f"K = {k}", figure_name)) is not None:
                draw_reported(axes, reported, STEPS)
        label_steps(axes, f"sinusoids, K = {k} points", "mean squared error (95% CI)")
        axes.label_outer()
        axes.set_xlabel("number of gradient steps")
    common_legend(figure, list(panels), 2 if len(shots) == 1 else 3)
    return figure
