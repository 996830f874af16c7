"""Table 1 (Sec. 5.2): few-shot classification of Omniglot and mini-ImageNet."""

from lightning_maml.paper.book import Book
from lightning_maml.paper.reported import MINI_IMAGENET, OMNIGLOT
from lightning_maml.paper.tables import View, fill


def views(book: Book) -> list[View]:
    """The table with our numbers, one view per part."""
    return [fill(OMNIGLOT, book), fill(MINI_IMAGENET, book)]
