"""Figure 3 (Sec. 5.1): learning from K = 10 points, MAML, pretrained and oracle.

The error axis is logarithmic, since MAML and the oracle lie far below the pretrained network; the
band of a 95% CI is cut at a tenth of the mean. The paper's points are read off its figure.
"""

from matplotlib.figure import Figure

from lightning_maml.paper import step_curves
from lightning_maml.paper.book import Book

SHOTS = (10,)
EXPERIMENTS = step_curves.experiments(SHOTS)


def draw(book: Book) -> Figure:
    """Our curves with their 95% CI; the paper's readings as open markers."""
    return step_curves.step_curves("figure3", SHOTS, book)
