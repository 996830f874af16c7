"""Table 5 (App. C.2): adapting a context vector only, half-cheetah forward/backward."""

from lightning_maml.paper.book import Book
from lightning_maml.paper.reported import CHEETAH_DIRECTION
from lightning_maml.paper.tables import View, fill


def views(book: Book) -> list[View]:
    """The table with our numbers, one view per part."""
    return [fill(CHEETAH_DIRECTION, book)]
