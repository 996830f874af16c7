"""Figures 4 and 5: returns after 0 .. 3 gradient steps."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from lightning_maml.paper.book import Book
from lightning_maml.paper.cells import RL_METHODS, experiment_name
from lightning_maml.paper.drawing import LOOKS, draw_ours, draw_reported, label_steps
from lightning_maml.paper.reported import LOCOMOTION, RETURNS, Curve, curve

STEPS = 3


def experiments(tasks: Sequence[str]) -> list[str]:
    """Names of what fills the figure."""
    return [experiment_name(task, method) for task in tasks for method in RL_METHODS]


def draw_returns(axes: Axes, task: str, panel: str, book: Book) -> None:
    """One environment: the readings of the figure, the authors' files, and ours."""
    for method in RL_METHODS:
        if (read := curve(LOCOMOTION, method, panel)) is not None:
            draw_reported(axes, read, STEPS, "paper's figure")
        if (filed := curve(RETURNS, method, panel)) is not None:
            _draw_filed(axes, filed)
        if (chosen := book.get(experiment_name(task, method))) is not None:
            draw_ours(axes, method, chosen, STEPS)
    label_steps(axes, panel, "average return")


def _draw_filed(axes: Axes, filed: Curve) -> None:
    """Means of the authors' result files; an oracle has one, before any step."""
    look = LOOKS[filed.method]
    axes.plot(
        filed.steps, [v for v in filed.values if v is not None], color=look.color,
        linestyle=look.line, linewidth=1, marker=look.marker, markersize=3,
        label=f"{filed.method}, authors' files",
    )  # fmt: skip
