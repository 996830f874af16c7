"""What a checkpoint may have imported: of classes and functions it holds the import paths."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OURS = ("lightning_maml", "datamodules", "torch", "torchvision", "lightning")
NO_PATHS = ("adapts",)  # patterns of parameters, such as "head.*"


def check_imports(settings: Mapping[str, Any], given: Iterable[str], path: Path) -> None:
    """Refuse what `settings`, from the checkpoint `path`, would import beyond `OURS`.

    Modules that are named in `given`, the user's own words, may be imported. Any setting that
    could be an import path is looked at, since each class decides which of its own are.

    Raises:
        ValueError: naming the setting, and how to allow it.
    """
    words = " ".join(given)
    for key, value in _strings(settings):
        module, dot, _ = value.partition(".")
        named = re.search(rf"(?<![\w.]){re.escape(module)}\.\w", words)
        if dot and module not in OURS and not named and _can_be_imported(module):
            flag = key.replace("init_args.", "").removesuffix(".class_path")
            raise ValueError(
                f"`--ckpt_path`: {path} would import {value!r} (`{key}`). A checkpoint may do so "
                f"only from {', '.join(OURS)}; if you trust this one, give its `--config`, or "
                f"`--{flag}={value}`."
            )


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All strings in `value` and their full names."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, below in value.items():
            if name not in NO_PATHS:
                yield from _strings(below, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list | tuple):
        for below in value:
            yield from _strings(below, key)


def _can_be_imported(module: str) -> bool:
    return module.isidentifier() and (module in sys.modules or find_spec(module) is not None)
