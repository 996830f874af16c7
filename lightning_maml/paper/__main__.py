"""`python -m lightning_maml.paper`: the paper's figures and tables from results of `test`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_maml.paper.book import Book, sort_results
from lightning_maml.paper.contents import PARTS, Need, Part
from lightning_maml.paper.drawing import save
from lightning_maml.paper.markdown import all_needs, markdown
from lightning_maml.paper.page import page
from lightning_maml.paper.results import read_results
from lightning_maml.paper.tables import text
from lightning_maml.run.files import write_whole

EVERYTHING = "all"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make one figure or table, or all of them; errors end in one line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    chosen = parser.parse_args(given)
    if chosen.out is None and (chosen.what == EVERYTHING or PARTS[chosen.what].draw):
        parser.error(f"{chosen.what} needs --out, the folder that its files are written to")
    try:
        book = sort_results(read_results(chosen.results))
        if chosen.what == EVERYTHING:
            command = f"python -m lightning_maml.paper {shlex.join(given)}"
            make_all(book, chosen.out, command)
        else:
            make(PARTS[chosen.what], book, chosen.out)
    except (ValueError, OSError) as error:
        parser.exit(2, f"error: {error}\n")


def make(part: Part, book: Book, out: Path | None) -> Path | None:
    """Print a table, or write a figure; say what is missing. Returns the path of an SVG file."""
    for view in part.views(book) if part.views else ():
        print(text(view), end="\n\n")
    svg = None
    if part.draw is not None and out is not None:
        print(part.title)
        if part.drawable(book):
            png, svg = save(part.draw(book), out / part.name)
            print(f"{png}\n{svg}\n")
        else:
            print("not drawn: there is no result with fits\n")
    print_notes(book, part.experiments)
    print_needs(all_needs(book, [part]))
    return svg


def make_all(book: Book, out: Path, command: str) -> None:
    """Everything that the results allow, ``results.md`` and ``index.html`` among it."""
    figures = {}
    for part in PARTS.values():
        for view in part.views(book) if part.views else ():
            print(text(view), end="\n\n")
        if part.draw is not None and part.drawable(book):
            _, figures[part.name] = save(part.draw(book), out / part.name)
    written = {
        "results.md": markdown(book, command, tuple(figures)),
        "index.html": page(book, command, figures),
    }
    for name, content in written.items():
        _write(out / name, content)
    print_notes(book, tuple(book.chosen))
    print_needs(all_needs(book))
    for one, why in book.unknown:
        print(f"not used: {one.name}: {why}")
    print("\n".join(str(out / name) for name in ("index.html", "results.md")))


def print_notes(book: Book, names: Sequence[str]) -> None:
    """The run behind each of our numbers."""
    for name in names:
        if (chosen := book.get(name)) is not None:
            facts = "".join(f"\n  {fact}" for fact in chosen.facts)
            print(f"{name}: {chosen.first.name}{facts}\n  {chosen.first.where}")


def print_needs(needs: Sequence[Need]) -> None:
    """What is missing, and the commands that would make it."""
    if needs:
        print("\nMissing (version_0 is a config's first run; take the number that fit printed):")
    for need in needs:
        print(f"{need.what}: {need.why}", *(f"  {line}" for line in need.commands), sep="\n")


def _write(path: Path, content: str) -> None:
    write_whole(path, lambda file: file.write(content))


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {part.name:<9}{part.title}" for part in PARTS.values())
    parser = argparse.ArgumentParser(
        prog="python -m lightning_maml.paper",
        description="The paper's figures and tables from results of `train.py test`.",
        epilog=f"{listed}\n  {EVERYTHING:<9}all of them, and index.html and results.md",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=[*PARTS, EVERYTHING], metavar="WHAT", help="see below")
    parser.add_argument(
        "--results", type=Path, required=True, metavar="DIR", help="folder with result files"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for what is written")
    return parser


if __name__ == "__main__":
    main()
