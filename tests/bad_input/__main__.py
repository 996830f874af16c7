"""Writes the rows of wrong input into docs/reliability.md: `python -m tests.bad_input`."""

import re
from pathlib import Path

from tests.bad_input import described

DOC = Path(__file__).parents[2] / "docs" / "reliability.md"
START, END = "<!-- bad input: begin -->\n", "<!-- bad input: end -->\n"


def table() -> str:
    """The rows as a table of Markdown."""
    lines = [f"| {given} | {said.strip()} |" for given, said in described()]
    lines = [line.replace("*", r"\*").replace("<", "&lt;") for line in lines]
    return "\n".join(["| given | said |", "|---|---|", *lines]) + "\n"


if __name__ == "__main__":
    text = DOC.read_text(encoding="utf-8")
    inside = re.compile(f"(?<={re.escape(START)}).*(?={re.escape(END)})", re.DOTALL)
    DOC.write_text(inside.sub(lambda _: table(), text), encoding="utf-8")
