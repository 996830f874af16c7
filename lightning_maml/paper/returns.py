"""Figures 4 and 5: returns after 0 .. 3 gradient steps."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_maml.paper.book import Book
from lightning_maml.paper.cells import RL_METHODS
from lightning_maml.paper.drawing import (
    LOOKS,
    common_legend,
    draw_ours,
    draw_reported,
    label_steps,
    new_figure,
)
from lightning_maml.paper.reported import LOCOMOTION, RETURNS, Curve, curve

METHODS = ("MAML", "pretrained", "random", "oracle")
STEPS = 3


def experiments(tasks: Sequence[str]) -> list[str]:
    """Names of what fills the figure."""
    return [_experiment(task, method) for task in tasks for method in RL_METHODS]


def returns(panels_of: dict[str, str], book: Book) -> Figure:
    """One panel per environment: the readings of the figure, the authors' files, and ours."""
    columns = min(2, len(panels_of))
    rows = -(-len(panels_of) // columns)
    figure = new_figure(5.2 * columns, 3.4 * rows + 1.4)
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, (task, panel) in zip(panels, panels_of.items(), strict=True):
        for method in METHODS:
            if (read := curve(LOCOMOTION, method, panel)) is not None:
                draw_reported(axes, read, STEPS, "paper's figure")
            if (filed := curve(RETURNS, method, panel)) is not None:
                _draw_filed(axes, filed)
            if (chosen := book.get(_experiment(task, method.lower()))) is not None:
                draw_ours(axes, method, chosen, STEPS)
        label_steps(axes, panel, "average return")
    common_legend(figure, list(panels), columns + 1)
    return figure


def _experiment(task: str, method: str) -> str:
    return task if method == "maml" else f"{task}_{method}"


def _draw_filed(axes: Axes, filed: Curve) -> None:
    """Means of the authors' result files; an oracle has one, before any step."""
    look = LOOKS[filed.method]
    axes.plot(
        filed.steps, [v for v in filed.values if v is not None], color=look.color,
        linestyle=look.line, linewidth=1, marker=look.marker, markersize=3,
        label=f"{filed.method}, authors' files",
    )  # fmt: skip
