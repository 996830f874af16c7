"""All figures and tables by name, and what each lacks."""

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Final

from matplotlib.figure import Figure

from lightning_maml.paper import (
    figure1,
    figure2,
    figure3,
    figure4,
    figure5,
    figure6,
    figure7,
    table1,
    table2,
    table3,
    table4,
    table5,
)
from lightning_maml.paper.book import Book, Chosen
from lightning_maml.paper.cells import SOURCES, Experiment
from lightning_maml.paper.tables import View


@dataclass(frozen=True)
class Part:
    """One figure or table; `fits`: it draws single tasks, not curves."""

    name: str
    title: str
    note: str
    experiments: tuple[str, ...]
    views: Callable[[Book], list[View]] | None = None
    draw: Callable[[Book], Figure] | None = None
    fits: bool = False

    def drawable(self, book: Book) -> bool:
        """Whether it is a figure that has something to show."""
        if self.draw is None or not self.fits:
            return self.draw is not None
        there = (book.get(name) for name in self.experiments)
        return any(one is not None and one.first.fits is not None for one in there)


def _part(name: str, module: ModuleType) -> Part:
    title, _, note = (module.__doc__ or "").partition("\n\n")
    views, draw = getattr(module, "views", None), getattr(module, "draw", None)
    tables = [rows for table, rows in SOURCES.items() if table.partition(".")[0] == name]
    filling = [source for rows in tables for row in rows.values() for source, _ in row]
    names = tuple(dict.fromkeys(filling or module.EXPERIMENTS))
    fits = name in ("figure2", "figure7")
    return Part(name, title.strip(), " ".join(note.split()), names, views, draw, fits)


PARTS: Final = {
    name: _part(name, module)
    for name, module in (
        ("table1", table1),
        ("table2", table2),
        ("table3", table3),
        ("table4", table4),
        ("table5", table5),
        ("figure1", figure1),
        ("figure2", figure2),
        ("figure3", figure3),
        ("figure4", figure4),
        ("figure5", figure5),
        ("figure6", figure6),
        ("figure7", figure7),
    )
}


@dataclass(frozen=True)
class Need:
    """Something that a figure or table lacks, and the commands that make it."""

    what: str
    why: str
    commands: tuple[str, ...]


def needs(part: Part, book: Book) -> list[Need]:
    """What of a part has no result yet, or has one that lacks what the part shows."""
    found = [need_of(one, book.get(one.name)) for one in book.missing(part.experiments)]
    for name in part.experiments:
        chosen = book.get(name)
        if chosen is None:
            continue
        again = (f"python {chosen.first.command}",)
        if part.fits and chosen.first.fits is None:
            found.append(Need(f"{name}_again", f"{chosen.first.name} has no fits", again))
    for view in part.views(book) if part.views else ():
        for entry in (entry for line in view.lines for entry in line.entries):
            if entry.value is not None and entry.value.absent and entry.chosen is not None:
                again = (f"python {entry.chosen.first.command}",)
                found.append(
                    Need(f"{entry.chosen.experiment.name}_again", entry.value.absent, again)
                )
    return list(dict.fromkeys(found))


def need_of(experiment: Experiment, chosen: Chosen | None) -> Need:
    """The commands for an experiment without a result of its own."""
    why = f"only a result of {chosen.other_config}.yaml's network" if chosen else "no result"
    return Need(experiment.name, why, experiment.commands)
