"""Table 2 (App. C.1): MAML, pretraining and averages of single-task models, sinusoids."""

from lightning_maml.paper.book import Book
from lightning_maml.paper.reported import SINUSOID
from lightning_maml.paper.tables import View, fill


def views(book: Book) -> list[View]:
    """The table with our numbers, one view per part."""
    return [fill(SINUSOID, book)]
