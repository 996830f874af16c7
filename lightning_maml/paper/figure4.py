"""Figure 4 (Sec. 5.3): 2D navigation.

Above: returns, on an axis that is logarithmic below -1. The paper's curves could not be read, and
no returns of the pretrained policy are known; the lines are the means of the authors' result files.
Below: trajectories before adaptation and after three steps, MAML and pretrained. The tasks are the
first two test tasks, the same in both rows; nothing is picked.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter, SymmetricalLogLocator

from lightning_maml.paper import returns
from lightning_maml.paper.book import Book
from lightning_maml.paper.drawing import common_legend, new_figure
from lightning_maml.paper.reported import POINT_MASS
from lightning_maml.paper.results import read_tracks
from lightning_maml.paper.sinusoid_fits import nothing_yet

PANELS = {"point": POINT_MASS}
EXPERIMENTS = returns.experiments(tuple(PANELS))
TRAJECTORIES = {"point": "MAML", "point_pretrained": "pretrained"}
TASKS = (0, 1)
LINES = {  # label, colour, line, width, by number of gradient steps
    "0": ("pre-update", "#7a7a7a", ":", 1.6),
    "3": ("3 gradient steps", "#1b6ca8", "-", 1.1),
}


def draw(book: Book) -> Figure:
    """Returns per number of gradient steps above, trajectories below."""
    figure = new_figure(7.2, 11.4)
    grid = figure.add_gridspec(3, 2, height_ratios=(1.15, 1, 1))
    above = figure.add_subplot(grid[0, :])
    above.set_yscale("symlog", linthresh=1)
    above.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
    above.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    returns.draw_returns(above, "point", POINT_MASS, book)
    below = []
    for row, (name, title) in enumerate(TRAJECTORIES.items(), start=1):
        chosen = book.get(name)
        fits = None if chosen is None else chosen.first.fits
        tasks = [] if fits is None else read_tracks(fits)
        for task in TASKS:
            axes = figure.add_subplot(grid[row, task])
            axes.set_title(f"{title}, task {task}", fontsize="small")
            if task < len(tasks):
                draw_tracks(axes, tasks[task])
            else:
                nothing_yet(axes)
            below.append(axes)
    common_legend(figure, [above, *below], 3)
    return figure


def draw_tracks(axes: Axes, task: dict[str, Any]) -> None:
    """One task: its goal, and trajectories from the start before and after adaptation."""
    for step, (label, color, line, width) in LINES.items():
        for track in task["tracks"].get(step, []):
            axes.plot(*np.array(track).T, color=color, linestyle=line, linewidth=width, label=label)
    axes.plot(0, 0, "ko", markerfacecolor="white", label="start")
    axes.plot(*task["goal"], "k*", markersize=13, markeredgecolor="white", label="goal")
    axes.set(xlabel="x", ylabel="y")
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.3)
