"""Figure 7 (App. B): fits of more sinusoids, MAML beside pretrained, K = 5, 10 and 20.

The tasks are the test tasks that follow those of Figure 2, in their order; nothing is picked.
"""

from matplotlib.figure import Figure

from lightning_maml.paper.book import Book
from lightning_maml.paper.drawing import common_legend, new_figure
from lightning_maml.paper.sinusoid_fits import after, draw_fit, fits_of, nothing_yet

SHOTS, TASKS = (5, 10, 20), (2, 3, 4, 5)
ROWS = {
    f"sinusoid_{method}_k{k}": f"{name}, K = {k}"
    for k in SHOTS
    for method, name in (("maml", "MAML"), ("pretrained", "pretrained"))
}
EXPERIMENTS = list(ROWS)


def draw(book: Book) -> Figure:
    """One row per K and method, one column per task."""
    figure = new_figure(3.1 * len(TASKS), 2.5 * len(ROWS) + 0.8)
    grid = figure.subplots(len(ROWS), len(TASKS), squeeze=False, sharex=True)
    for row, (name, title) in zip(grid, ROWS.items(), strict=True):
        tasks = fits_of(book, name)
        for axes, task in zip(row, TASKS, strict=True):
            if tasks is None or task >= len(tasks):
                nothing_yet(axes)
            else:
                draw_fit(axes, tasks[task])
            axes.set_title(f"{title}\ntask {task}{after(book, name)}", fontsize="small")
            axes.set_ylabel("y")
    for axes in grid[-1]:
        axes.set_xlabel("x")
    common_legend(figure, list(grid.flatten()), 5)
    return figure
