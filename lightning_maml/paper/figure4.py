"""Figure 4 (Sec. 5.3): 2D navigation.

The paper's curves could not be read, and no returns of the pretrained policy are known; the lines
are the means of the authors' result files.
"""

from matplotlib.figure import Figure

from lightning_maml.paper import returns
from lightning_maml.paper.book import Book
from lightning_maml.paper.reported import POINT_MASS

PANELS = {"point": POINT_MASS}
EXPERIMENTS = returns.experiments(tuple(PANELS))


def draw(book: Book) -> Figure:
    """Returns per number of gradient steps."""
    return returns.returns(PANELS, book)
