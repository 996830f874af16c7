"""Wrong input as data: rows.yaml says what is given and what is said, files.py writes files."""

from pathlib import Path
from typing import NamedTuple

import yaml

from tests.bad_input import files


class Row(NamedTuple):
    """One wrong input: a command line or a Python expression, and the words of its refusal."""

    id: str
    given: str
    said: str


CONTENT = yaml.safe_load(Path(__file__).with_name("rows.yaml").read_text(encoding="utf-8"))
ROWS = {kind: [Row(**row) for row in rows] for kind, rows in CONTENT.items()}


def described() -> list[tuple[str, str]]:
    """What is given and what is said, of all rows, in words."""
    flags, commands, expressions, reading = ROWS.values()
    given = [f"`fit` with `{row.given}`" for row in flags]
    given += [f"`{row.given}`" if row.given else "no arguments" for row in commands]
    given += [f"`{row.given}`" for row in expressions]
    given += [f"{getattr(files, row.id).__doc__}: `{row.given}`" for row in reading]
    every = [*flags, *commands, *expressions, *reading]
    return [(text, row.said) for text, row in zip(given, every, strict=True)]
