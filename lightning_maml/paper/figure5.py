"""Figure 5 (Sec. 5.3): locomotion of half-cheetah and ant, goal velocity and direction.

The points read off the paper's figure and the means of the authors' result files sometimes differ;
both are shown.
"""

from matplotlib.figure import Figure

from lightning_maml.paper import returns
from lightning_maml.paper.book import Book
from lightning_maml.paper.drawing import common_legend, new_figure
from lightning_maml.paper.reported import ANT_D, ANT_V, CHEETAH_D, CHEETAH_V

PANELS = {
    "cheetah_velocity": CHEETAH_V,
    "cheetah_direction": CHEETAH_D,
    "ant_velocity": ANT_V,
    "ant_direction": ANT_D,
}
EXPERIMENTS = returns.experiments(tuple(PANELS))


def draw(book: Book) -> Figure:
    """Returns per number of gradient steps, a panel per environment."""
    figure = new_figure(10.4, 8.2)
    panels = figure.subplots(2, 2).flatten()
    for axes, (task, panel) in zip(panels, PANELS.items(), strict=True):
        returns.draw_returns(axes, task, panel, book)
    common_legend(figure, list(panels), 3)
    return figure
