"""Reads and checks the result files of `test` (lightning_maml/run/result_file.py writes them)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_maml.paper.methods import flat

PATTERN, FITS_ENDING = "test_result*.json", "_fits.json"
CURVES = ("mean", "ci95", "median", "diverged")


@dataclass(frozen=True)
class Result:
    """A result file. Of the curves, entry k is after `steps[k]` inner steps, None: not finite."""

    path: Path
    name: str  # the path within the folder of results
    metric: str
    tasks: int
    fingerprint: str
    steps: tuple[int, ...]
    mean: tuple[float | None, ...]
    ci95: tuple[float | None, ...]
    median: tuple[float | None, ...]
    diverged: tuple[int, ...]
    meta_updates: int | None
    settings: Mapping[str, Any]
    seed: int | None
    command: str
    training: tuple[str, ...]  # its commands, with each resumption's; empty if not recorded
    training_seconds: float | None  # None if not recorded
    date: str
    commit: str
    versions: Mapping[str, str | None]
    device: Mapping[str, Any]
    fits: Path | None
    parameters: int | None  # None if not recorded
    tuned: str  # what was chosen on validation tasks (baselines), empty if nothing was

    @property
    def where(self) -> str:
        """Device and versions in a line."""
        names = ("python", "torch", "lightning")
        versions = ", ".join(f"{name} {self.versions.get(name) or '?'}" for name in names)
        processes = self.device.get("processes", 1)
        several = f", {processes} processes" if processes != 1 else ""
        name, precision = self.device.get("name", "?"), self.device.get("precision", "?")
        kind = str(self.device.get("type", "?")).upper()
        return f"{kind} ({name}){several}, {precision}, {versions}, commit {self.commit}"


def read_results(folder: Path) -> list[Result]:
    """All results anywhere under a folder, in the order of their paths.

    Raises:
        ValueError: naming the argument if there is no such folder, or file and key if a result
            is malformed.
    """
    if not folder.is_dir():
        raise ValueError(f"`--results` must be a folder with results of `test`, got {folder}.")
    paths = (path for path in folder.rglob(PATTERN) if not path.name.endswith(FITS_ENDING))
    return [read_result(path, path.relative_to(folder)) for path in sorted(paths)]


def read_result(path: Path, name: Path | None = None) -> Result:
    """One result file, shown as `name`.

    Raises:
        ValueError: naming file and key if it is malformed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: must be a JSON file, but {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold one JSON object, got {type(content).__name__}.")
    steps = _numbers(path, content, "steps", None, int)
    curves = {name: _numbers(path, content, name, len(steps)) for name in CURVES}
    git = content.get("git") or {}
    trained = "training_seed" if "training_seed" in content else "seed"
    fits = content.get("fits")
    return Result(
        path=path,
        name=str(name or path),
        metric=_get(path, content, "metric", str),
        tasks=_get(path, content, "tasks", int),
        fingerprint=_get(path, content, "fingerprint", str),
        steps=steps,
        meta_updates=_get(path, content, "meta_updates", int, optional=True),
        settings=_of_test_tasks(flat(_described(path, content))),
        seed=_get(path, content, trained, int, optional=True),
        command=_get(path, content, "command", str),
        training=_training(path, content),
        training_seconds=_seconds(path, content),
        date=_get(path, content, "date", str),
        commit=str(git.get("commit", "?"))[:10] + (" with changes" if git.get("dirty") else ""),
        versions=_get(path, content, "versions", dict),
        device=_get(path, content, "device", dict),
        fits=None if fits is None else path.with_name(str(fits)),
        parameters=_get(path, {"parameters": None, **content}, "parameters", int, optional=True),
        tuned=_tuned(_get(path, {"tuning": None, **content}, "tuning", dict, optional=True)),
        **curves,
    )


def read_fits(path: Path) -> list[dict[str, Any]]:
    """The tasks of a file of fits (lightning_maml/run/fits.py writes it), in their order.

    Raises:
        ValueError: naming file and key if it is malformed or not there.
    """
    tasks = _tasks_of(path)
    for task in tasks:
        for name in ("support_x", "support_y", "query_x", "query_y"):
            _numbers(path, task, name, None)
        for step, outputs in _get(path, task, "outputs", dict).items():
            _numbers(path, {step: outputs}, step, len(task["query_x"]))
    return tasks


def read_tracks(path: Path) -> list[dict[str, Any]]:
    """The tasks of a file of trajectories (lightning_maml/rl/trajectory_figure.py), in their order.

    Raises:
        ValueError: naming file and key if it is malformed or not there.
    """
    tasks = _tasks_of(path)
    for task in tasks:
        _numbers(path, task, "goal", 2)
        for tracks in _get(path, task, "tracks", dict).values():
            for k, point in enumerate(point for track in tracks for point in track):
                _numbers(path, {f"point {k}": point}, f"point {k}", 2)
    return tasks


def _tasks_of(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: must be a JSON file of fits, but {error}.") from error
    tasks: list[dict[str, Any]] = _get(path, content, "tasks", list)
    return tasks


def _training(path: Path, content: Mapping[str, Any]) -> tuple[str, ...]:
    key = "training_commands"
    commands = _get(path, {key: None, **content}, key, list, optional=True) or ()
    return tuple(_get(path, {f"{key}[{i}]": c}, f"{key}[{i}]", str) for i, c in enumerate(commands))


def _seconds(path: Path, content: Mapping[str, Any]) -> float | None:
    key = "training_seconds"
    seconds = {key: None, **content}[key]
    return None if seconds is None else _numbers(path, {key: [seconds]}, key, 1)[0]


def _tuned(tuning: Mapping[str, Any] | None) -> str:
    """What a baseline's `tuning` says it chose."""
    return "" if tuning is None else json.dumps(tuning.get("chosen"))


def _of_test_tasks(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Classes and shots are those of the test tasks; where training had others, beside them."""
    found = dict(settings)
    for size in ("n_way", "k_shot"):
        of_training, of_test = (settings.get(f"data.{part}{size}") for part in ("", "eval_"))
        if of_test not in (None, of_training):
            found |= {f"training.{size}": of_training, f"data.{size}": of_test}
    return found


def _described(path: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("model", "data"):
        part = _get(path, content, name, dict, optional=True)
        if part is not None:
            _get(path, part, "class_path", str)
            _get(path, part, "init_args", dict, optional=True)
    return content


def _get(
    path: Path, content: Mapping[str, Any], key: str, kind: type, optional: bool = False
) -> Any:
    if key not in content:
        raise ValueError(f"{path}: `{key}` is missing; it must be {_name(kind)}.")
    value = content[key]
    if value is None and optional:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{path}: `{key}` must be {_name(kind)}, got {value!r}.")
    return value


def _numbers(
    path: Path, content: Mapping[str, Any], key: str, length: int | None, only: Any = (int, float)
) -> tuple[Any, ...]:
    """A list of numbers, None where one is not finite."""
    values = _get(path, content, key, list)
    for value in values:
        wrong = isinstance(value, bool) or not isinstance(value, only)
        if wrong and (value is not None or only is int):
            raise ValueError(f"{path}: `{key}` must hold numbers or null, got {value!r}.")
    if not values or (length is not None and len(values) != length):
        right = "at least one number" if length is None else f"{length} numbers"
        raise ValueError(f"{path}: `{key}` must hold {right}, got {len(values)}.")
    return tuple(values)


def _name(kind: type) -> str:
    names = {str: "text", int: "an integer", list: "a list", dict: "an object"}
    return names[kind]
