"""Figure 6 (App. B): learning from K = 5, 10 and 20 points, MAML, pretrained and oracle."""

from matplotlib.figure import Figure

from lightning_maml.paper import step_curves
from lightning_maml.paper.book import Book

SHOTS = (5, 10, 20)
EXPERIMENTS = step_curves.experiments(SHOTS)


def draw(book: Book) -> Figure:
    """Our curves with their 95% CI; the paper's readings as open markers."""
    return step_curves.step_curves("figure6", SHOTS, book)
