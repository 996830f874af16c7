"""Config files of a command: found by name, and read once before anything else is."""

from collections.abc import Iterator
from pathlib import Path

import yaml

FLAGS = ("--config", "-c")


def with_found_configs(args: list[str], folder: Path | None) -> list[str]:
    """`args` with the path of a config in `folder` where one is named that is no file.

    Raises:
        ValueError: naming the file, if a config is no YAML or holds no settings.

    >>> with_found_configs(["fit", "--config", "no/such.yaml"], None)
    ['fit', '--config', 'no/such.yaml']
    """
    found = list(args)
    for place, start, given in _configs(args):
        ours = None if folder is None else folder / given.removeprefix("configs/")
        if ours is not None and not Path(given).exists() and ours.is_file():
            found[place] = f"{start}{ours}"
        elif Path(given).is_file():
            _check(Path(given))
    return found


def _configs(args: list[str]) -> Iterator[tuple[int, str, str]]:
    """Of each config in `args`: where it stands, what stands before it there, and its name."""
    for place, arg in enumerate(args):
        flag, equals, given = arg.partition("=")
        if not arg.endswith((".yaml", ".yml")):
            continue
        if equals and flag in FLAGS:
            yield place, f"{flag}=", given
        elif place and args[place - 1] in FLAGS:
            yield place, "", arg


def _check(path: Path) -> None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`--config` must be a file of YAML, got {path}: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"`--config` must hold settings by name (model, data, trainer), got {path}, which "
            f"holds {'nothing' if content is None else type(content).__name__}."
        )
