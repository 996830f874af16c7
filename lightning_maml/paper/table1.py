"""Table 1 (Sec. 5.2): few-shot classification of Omniglot and mini-ImageNet.

Prototypical nets, which the table does not have, are in tables of their own; "paper" is there what
Snell, Swersky and Zemel (2017) report, as two other implementations quote it.
"""

from typing import Final

from lightning_maml.paper.book import Book
from lightning_maml.paper.reported import MINI_IMAGENET, OMNIGLOT, Row, Score, Table
from lightning_maml.paper.tables import View, fill

PROTOTYPICAL: Final = tuple(
    Table(
        f"{table.name}_prototypical",
        f"{data}, prototypical nets: accuracy in %",
        table.columns,
        (Row("prototypical nets", tuple(map(Score, scores))),),
        digits=1,
    )
    for data, table, scores in (
        ("Omniglot", OMNIGLOT, (98.8, 99.7, 96.0, 98.9)),
        ("mini-ImageNet", MINI_IMAGENET, (49.4, 68.2)),
    )
)


def views(book: Book) -> list[View]:
    """The table with our numbers, one view per part."""
    return [fill(table, book) for table in (OMNIGLOT, MINI_IMAGENET, *PROTOTYPICAL)]
