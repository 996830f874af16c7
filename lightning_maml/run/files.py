"""Writing a file so that it is there whole or not at all, and never in another's place."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any


def unused_stem(folder: Path, stem: str, endings: Sequence[str]) -> str:
    """`stem`, or the first of `stem`_2, `stem`_3, ... with which no file in `folder` exists.

    >>> unused_stem(Path("no/such/folder"), "test_result", [".json"])
    'test_result'
    """
    number, candidate = 1, stem
    while any((folder / f"{candidate}{ending}").exists() for ending in endings):
        number += 1
        candidate = f"{stem}_{number}"
    return candidate


def write_whole(path: Path, write: Callable[[IO[Any]], object], mode: str = "w") -> None:
    """Let `write` fill a temporary file beside `path`, which then takes the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    encoding = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(temporary, mode, **encoding) as file:  # type: ignore[call-overload]
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
