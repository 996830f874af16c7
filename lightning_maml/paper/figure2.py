"""Figure 2 (Sec. 5.1): fits of two sinusoids, MAML and pretrained, K = 5 and K = 10.

Below them the case of the text: all K points in one half of the input range. The tasks are the
first two test tasks, the same in every panel; nothing is picked.
"""

from matplotlib.figure import Figure

from lightning_maml.paper.book import Book
from lightning_maml.paper.drawing import common_legend, new_figure
from lightning_maml.paper.sinusoid_fits import after, draw_fit, fits_of, nothing_yet

METHODS, SHOTS, TASKS = ("maml", "pretrained"), (5, 10), (0, 1)
SHOWN = {"maml": "MAML", "pretrained": "pretrained"}
CASES = {"": "", "_half": ", points in one half"}
PANELS = {
    f"sinusoid_{method}_k{k}{case}": f"{SHOWN[method]}, K = {k}{words}"
    for case, words in CASES.items()
    for method in METHODS
    for k in SHOTS
}
EXPERIMENTS = list(PANELS)


def draw(book: Book) -> Figure:
    """One row per case and method, for each K two tasks."""
    columns = len(SHOTS) * len(TASKS)
    rows = len(PANELS) // len(SHOTS)
    figure = new_figure(3.1 * columns, 2.5 * rows + 0.8)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey="row")
    panels = list(grid.flatten())
    for place, (name, title) in enumerate(PANELS.items()):
        tasks = fits_of(book, name)
        for i, task in enumerate(TASKS):
            axes = panels[place * len(TASKS) + i]
            if tasks is None or task >= len(tasks):
                nothing_yet(axes)
            else:
                draw_fit(axes, tasks[task])
            axes.set_title(f"{title}\ntask {task}{after(book, name)}", fontsize="small")
            axes.set_xlabel("x")
            axes.set_ylabel("y")
            axes.label_outer()
    common_legend(figure, panels, 5)
    return figure
