"""Table 4 (App. C.2): adapting a context vector only, 2D point mass."""

from lightning_maml.paper.book import Book
from lightning_maml.paper.reported import POINT
from lightning_maml.paper.tables import View, fill


def views(book: Book) -> list[View]:
    """The table with our numbers, one view per part."""
    return [fill(POINT, book)]
