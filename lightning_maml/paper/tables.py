"""A table of the paper with our numbers beside it, as data, and as text of at most 100 columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap

from lightning_maml.paper.book import Book, Chosen, Value
from lightning_maml.paper.cells import EXPERIMENTS, SOURCES, Experiment
from lightning_maml.paper.parameters import PARAMETERS
from lightning_maml.paper.reported import Score, Table

LABEL_WIDTH, WIDTH = 7, 100


@dataclass(frozen=True)
class Entry:
    """One cell: the paper's score, and ours where there is a result for its experiment."""

    paper: Score | None
    experiment: Experiment | None = None
    chosen: Chosen | None = None
    value: Value | None = None

    @property
    def ours(self) -> str:
        """Our number as text, empty without one."""
        if self.chosen is None or self.value is None or self.value.absent:
            return ""
        accuracy = self.chosen.first.metric == "accuracy"
        return shown(self.value, 100 if accuracy else 1, 2 if accuracy else 3)

    @property
    def shortened(self) -> str:
        """The number of meta-updates where they are fewer than the paper's, else empty."""
        return self.chosen.shortened if self.chosen is not None and self.ours else ""

    @property
    def other_network(self) -> str:
        """The settings of another network than the paper's or the config's, else empty."""
        return self.chosen.other_network if self.chosen is not None and self.ours else ""

    @property
    def parameters(self) -> str:
        """How many the network has, by the config and, where it is another, by our result."""
        if self.experiment is None:
            return ""
        recorded = self.chosen.first.parameters if self.chosen is not None and self.ours else None
        of_config = PARAMETERS.get(self.experiment.config)
        if None in (recorded, of_config) or recorded == of_config:
            count = recorded or of_config
            return "" if count is None else f"{count:,}"
        return f"{recorded:,} (config: {of_config:,})"


@dataclass(frozen=True)
class Line:
    """One row of a table."""

    name: str
    entries: tuple[Entry, ...]

    @property
    def parameters(self) -> str:
        """Those of the entries, each number once."""
        return " / ".join(dict.fromkeys(filter(None, (e.parameters for e in self.entries))))


@dataclass(frozen=True)
class View:
    """A whole table: the paper's and ours."""

    table: Table
    lines: tuple[Line, ...]

    @property
    def experiments(self) -> list[str]:
        """Names of the experiments that fill it, each once."""
        entries = (entry for line in self.lines for entry in line.entries)
        return list(dict.fromkeys(e.experiment.name for e in entries if e.experiment is not None))

    @property
    def counted(self) -> bool:
        """Whether a number of parameters is known."""
        return any(line.parameters for line in self.lines)

    @property
    def diverged(self) -> bool:
        """Whether a mean of ours is not finite."""
        return any("*" in entry.ours for line in self.lines for entry in line.entries)

    def paper(self, entry: Entry) -> str:
        """The paper's score as printed, empty without one."""
        return "" if entry.paper is None else entry.paper.text(self.table.digits)


def fill(table: Table, book: Book) -> View:
    """Our numbers beside the paper's."""
    sources = SOURCES[table.name]
    assert set(sources) <= {row.name for row in table.rows}
    lines = []
    for row in table.rows:
        filled = [Entry(score) for score in row.scores]
        for i, (name, step) in enumerate(sources.get(row.name, ())):
            chosen = book.get(name)
            value = None if chosen is None else chosen.value(step)
            filled[i] = Entry(row.scores[i], EXPERIMENTS[name], chosen, value)
        lines.append(Line(row.name, tuple(filled)))
    return View(table, tuple(lines))


def shown(value: Value, scale: float = 1, digits: int = 3) -> str:
    """A value as text; where a task diverged, the median in place of the mean.

    >>> shown(Value(mean=0.97934, ci95=0.00561), 100, 2)
    '97.93 +- 0.56'
    >>> shown(Value(median=0.1374, diverged=1))
    'median 0.137*'
    """
    if value.mean is not None:
        half = "" if value.ci95 is None else f" +- {value.ci95 * scale:.{digits}f}"
        return f"{value.mean * scale:.{digits}f}{half}"
    if value.median is not None:
        return f"median {value.median * scale:.{digits}f}*"
    return "not finite*"


DIVERGED = "* The mean is not finite: some tasks diverged."


def text(view: View) -> str:
    """The table for a terminal."""
    names = max(len(line.name) for line in view.lines) + 2
    width = min(18, (WIDTH - names - LABEL_WIDTH) // len(view.table.columns))

    def row(name: str, label: str, cells: Sequence[str]) -> str:
        """What is too long for its column goes on below."""
        stacks = zip_longest(*(wrap(cell, width - 1) for cell in cells), fillvalue="")
        padded = ["".join(f"{cell:>{width}}" for cell in line) for line in stacks] or [""]
        head, under = f"{name:<{names}}{label:<{LABEL_WIDTH}}", " " * (names + LABEL_WIDTH)
        lines = [head + padded[0], *(under + line for line in padded[1:])]
        return "\n".join(line.rstrip() for line in lines)

    lines = [view.table.title, row("", "", view.table.columns)]
    for line in view.lines:
        lines.append(row(line.name, "paper", [view.paper(entry) for entry in line.entries]))
        ours = [entry.ours or ("" if entry.paper is None else "-") for entry in line.entries]
        lines.append(row("", "ours", ours))
        if any(after := [entry.shortened for entry in line.entries]):
            lines.append(row("  meta-updates", "", after))
        if any(other := [entry.other_network for entry in line.entries]):
            lines.append(row("  network", "", other))
        if line.parameters:
            lines.append(row("  parameters", "", [entry.parameters for entry in line.entries]))
    if view.diverged:
        lines.append(DIVERGED)
    return "\n".join(lines)
