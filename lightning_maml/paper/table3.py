"""Table 3 (App. C.2): adapting a context vector only, Omniglot."""

from lightning_maml.paper.book import Book
from lightning_maml.paper.reported import CONTEXT_OMNIGLOT
from lightning_maml.paper.tables import View, fill


def views(book: Book) -> list[View]:
    """The table with our numbers, one view per part."""
    return [fill(CONTEXT_OMNIGLOT, book)]
