"""Table 3 (App. C.2): adapting a context vector only, Omniglot.

The paper has no numbers of its context vector for sinusoids; ours are in a table of their own.
"""

from typing import Final

from lightning_maml.paper.book import Book
from lightning_maml.paper.reported import CONTEXT_OMNIGLOT, SINUSOID, Row, Table
from lightning_maml.paper.tables import View, fill

CONTEXT_SINUSOID: Final = Table(
    "table3.sinusoid",
    "Sinusoids with a context vector, 10-shot: mean squared error",
    SINUSOID.columns,
    tuple(Row(name, (None,) * len(SINUSOID.columns)) for name in ("context vector", "MAML")),
)


def views(book: Book) -> list[View]:
    """The table with our numbers, one view per part."""
    return [fill(CONTEXT_OMNIGLOT, book), fill(CONTEXT_SINUSOID, book)]
