"""How every figure looks, and how it is saved: PNG and SVG, the same bytes for the same input.

Methods differ by line style and marker as well as by colour, so that a black and white print can
be read. No global state of matplotlib is used or changed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from lightning_maml.paper.book import Chosen
from lightning_maml.paper.reported import Curve


@dataclass(frozen=True)
class Look:
    """Colour, line and marker of a method."""

    color: str
    line: Any
    marker: str


LOOKS: Final = {
    "MAML": Look("#1b6ca8", "-", "o"),
    "pretrained": Look("#c0392b", "--", "s"),
    "oracle": Look("#2e7d32", ":", "^"),
    "random": Look("#6d6d6d", (0, (5, 1, 1, 1)), "D"),
}
DPI = 150
PARTS: Final = ("mean", "ci95", "median")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    room = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    return Figure(figsize=(width, height), layout=room)


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write ``<stem>.png`` and ``<stem>.svg``."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg = (stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg"))
    FigureCanvasAgg(figure)
    figure.savefig(png, dpi=DPI, metadata={"Software": None})
    FigureCanvasSVG(figure)
    with rc_context({"svg.hashsalt": stem.name, "svg.fonttype": "path"}):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return png, svg


def draw_ours(axes: Axes, method: str, chosen: Chosen, most: int, top: float = np.inf) -> None:
    """Mean and 95% CI after 0 .. `most` inner steps; one without inner steps is a level.

    Where the mean is above `top` or not finite, an arrow stands at `top` instead, and the median
    is drawn as well. On a logarithmic axis the band ends at a tenth of the mean, since the
    interval may reach below zero.
    """
    look, color = LOOKS[method], LOOKS[method].color
    steps = np.array([step for step in chosen.first.steps if step <= most])
    values = [chosen.value(int(step)) for step in steps]
    if len(steps) == 1:
        steps, values = np.array([0, most]), values * 2
    mean, half, median = (_floats(getattr(v, part) for v in values) for part in PARTS)
    off = ~(mean <= top)  # NaN as well
    mean[off] = np.nan
    note = f" ({chosen.shortened} updates)" if chosen.shortened else ""
    label = f"{method}, ours{note}"
    axes.plot(steps, mean, color=color, ls=look.line, marker=look.marker, ms=4, label=label)
    lower = np.maximum(mean - half, mean / 10) if axes.get_yscale() == "log" else mean - half
    upper = np.minimum(mean + half, top)
    axes.fill_between(steps, lower, upper, color=color, alpha=0.18, linewidth=0)
    if off.any():
        style: dict[str, Any] = {"color": color, "ls": (0, (1, 2)), "marker": "x", "ms": 5}
        axes.plot(steps, median, **style, label=f"{method}, ours, median")
        if np.isfinite(top):
            above: dict[str, Any] = {"color": color, "ls": "none", "marker": "$\\uparrow$", "ms": 9}
            axes.plot(
                steps[off], np.full(off.sum(), top), **above, clip_on=False,
                label=f"{method}, ours: mean above {top:g} or not finite",
            )  # fmt: skip


def _floats(values: Iterable[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values])


def draw_reported(axes: Axes, curve: Curve, last: float, name: str = "paper") -> None:
    """The paper's readings as open markers; one that is a level only as a thin line."""
    look = LOOKS[curve.method]
    label = f"{curve.method}, {name}"
    if curve.level is not None:
        axes.plot(
            [0, last], [curve.level] * 2, color=look.color, linestyle=look.line, linewidth=0.8,
            marker=look.marker, markersize=8, markerfacecolor="none", label=f"{label} (level)",
        )  # fmt: skip
        return
    points = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if v is not None]
    axes.plot(
        *zip(*points, strict=True), linestyle="none", color=look.color, marker=look.marker,
        markersize=8, markerfacecolor="none", label=label,
    )  # fmt: skip


def label_steps(axes: Axes, title: str, quantity: str) -> None:
    """Title, axes' names and whole numbers of steps."""
    axes.set_title(title)
    axes.set_xlabel("number of gradient steps")
    axes.set_ylabel(quantity)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def common_legend(figure: Figure, panels: Sequence[Axes], columns: int) -> None:
    """One legend below all panels, each label once."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=columns,
        fontsize="small", frameon=False,
    )  # fmt: skip
