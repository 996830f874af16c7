"""Figure 4 (Sec. 5.3): 2D navigation. The paper's curves were not read; the authors' files are."""

from matplotlib.figure import Figure

from lightning_maml.paper import returns
from lightning_maml.paper.book import Book
from lightning_maml.paper.reported import POINT_MASS

PANELS = {"point": POINT_MASS}
EXPERIMENTS = returns.experiments(tuple(PANELS))


def draw(book: Book) -> Figure:
    """Returns per number of gradient steps."""
    return returns.returns(PANELS, book)
