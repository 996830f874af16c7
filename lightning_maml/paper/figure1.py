"""Figure 1 (Sec. 2.2): the diagram of MAML, computed for a model of two weights.

The paper's figure is a drawing. Here the model is a line, its weights are slope and intercept, and
each of three tasks is a few points of a line of its own. Meta-learning goes to where three gradient
steps bring all tasks far; where their mean loss without adaptation is smallest is another place.
Rings are the weights with which a task's loss is 0.1, 0.4 and 0.9.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from lightning_maml.engine import Engine
from lightning_maml.episode import Episode
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.losses import mse
from lightning_maml.paper.book import Book
from lightning_maml.paper.drawing import common_legend, new_figure
from lightning_maml.step_sizes import StepSizes

EXPERIMENTS: Final = ()  # it needs no result
LINES: Final = ((1.5, 0.5), (-1.0, 1.5), (-0.5, -2.0))
"""Slope and intercept of each task: its best weights."""
POINTS: Final = ((-2.0, -1.0, 1.0, 2.0), (-0.6, 0.2, 0.7, 1.0), (-1.0, -0.7, -0.2, 0.6))
"""Where each task has its points."""
START: Final = (2.2, -1.6)
INNER_LR, INNER_STEPS, META_LR, META_UPDATES = 0.15, 3, 1.0, 100
COLORS: Final = ("#1b6ca8", "#c0392b", "#2e7d32")
Path = npt.NDArray[np.float64]


class Paths(NamedTuple):
    """Weights along the way, slope and intercept.

    Shapes: meta ``[updates + 1, 2]``; adapted ``[tasks, inner steps + 1, 2]``; together ``[2]``,
    those with the smallest mean loss without adaptation.
    """

    meta: Path
    adapted: Path
    together: Path


def episode() -> Episode:
    """The three tasks, ``[3, points, 1]``; the same points for support and query."""
    x = torch.tensor(POINTS, dtype=torch.float64)[..., None]
    slope, intercept = torch.tensor(LINES, dtype=torch.float64).T[..., None, None]
    y = slope * x + intercept
    return Episode(x, y, x, y)


def paths() -> Paths:
    """Meta-learn by plain gradient steps (Alg. 1), adapt to each task; fit all at once."""
    model, tasks = nn.Linear(1, 1, dtype=torch.float64), episode()
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), START, strict=True):
            parameter.fill_(value)
    engine, loop = Engine(model, mse), InnerLoop(INNER_STEPS, StepSizes(INNER_LR))
    optimizer = torch.optim.SGD(model.parameters(), lr=META_LR)
    meta = [_weights(dict(model.named_parameters()))]
    for _ in range(META_UPDATES):
        optimizer.zero_grad()
        engine.meta_loss(loop, tasks)[0].backward()
        optimizer.step()
        meta.append(_weights(dict(model.named_parameters())))
    adapted = [
        [
            _weights(engine.adapt(InnerLoop(steps, loop.step_sizes), x, y))
            for steps in range(INNER_STEPS + 1)
        ]
        for x, y in zip(tasks.support_x, tasks.support_y, strict=True)
    ]
    features = np.stack([np.ravel(POINTS), np.ones(np.size(POINTS))], axis=1)
    together = np.linalg.lstsq(features, tasks.support_y.numpy().ravel(), rcond=None)[0]
    return Paths(np.array(meta), np.array(adapted), together)


def _weights(parameters: dict[str, torch.Tensor]) -> Path:
    pair = [parameters["weight"].flatten(), parameters["bias"]]
    return torch.cat(pair).detach().numpy().copy()


def draw(book: Book) -> Figure:
    """The plane of the two weights."""
    found = paths()
    figure = new_figure(7.2, 6.6)
    axes = figure.subplots()
    for task, color in enumerate(COLORS):
        _draw_rings(axes, task, color)
        x, y = found.adapted[task].T
        label = f"{INNER_STEPS} gradient steps on task {task}"
        axes.plot(x, y, color=color, marker=".", markersize=7, label=label)
        axes.plot(
            *LINES[task], color=color, marker="*", markersize=13, linestyle="none",
            markeredgecolor="white", label=f"best weights of task {task}",
        )  # fmt: skip
    axes.plot(*found.meta.T, color="black", linewidth=2, label="meta-learning")
    axes.plot(*found.meta[0], "ko", markerfacecolor="white", label="start")
    axes.plot(*found.meta[-1], "ko", label="meta-learned weights")
    axes.plot(*found.together, "kx", markersize=8, label="smallest mean loss without adaptation")
    axes.set(xlabel="slope", ylabel="intercept", title="Weights of a line")
    axes.set_aspect("equal", adjustable="datalim")
    common_legend(figure, [axes], 3)
    return figure


def _draw_rings(axes: Axes, task: int, color: str) -> None:
    """Where the task's loss is 0.1, 0.4 and 0.9."""
    slope, intercept = np.meshgrid(np.linspace(-3, 3.4, 161), np.linspace(-3.4, 3, 161))
    errors = [(slope - LINES[task][0]) * x + intercept - LINES[task][1] for x in POINTS[task]]
    loss = np.mean(np.square(errors), axis=0)
    axes.contour(slope, intercept, loss, [0.1, 0.4, 0.9], colors=color, linewidths=0.7, alpha=0.5)
