"""Table 2 (App. C.1): MAML beside averages of single-task models and pretraining, sinusoids."""

from lightning_maml.paper.book import Book
from lightning_maml.paper.reported import SINUSOID
from lightning_maml.paper.tables import View, fill


def views(book: Book) -> list[View]:
    """The table with our numbers, one view per part."""
    return [fill(SINUSOID, book)]
