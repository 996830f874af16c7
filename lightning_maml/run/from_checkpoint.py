"""Model and data of a command from its checkpoint, and what of the model may be changed then."""

import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

FREE = (
    "eval_inner_steps",
    "eval_inner_lr",
    "tasks_at_once",
    "compile",
    "classify_by",
    "fine_tuning_lrs",
    "fine_tuning_decays",
    "eval_trajectories",
    "common_noise",
    "render",
    "environment.init_args.threads",
)
SIZES = ("n_way", "k_shot", "query_shot")
OF_TASKS = (*SIZES, *(f"eval_{size}" for size in SIZES), "image_size", "channels", "invert")
RUNS = Path("runs")
NAMES = ("last", "best")


def find_checkpoint(setting: str, logger: Any, own: Path | None = None) -> Path:
    """The file that `--ckpt_path` means.

    "last" and "best" look into the folder of `logger` (its setting in the config; if it has none,
    `own`, where runs of the config go then; ``runs`` without a config) for the run with the newest
    checkpoint: "last" is the newest file last*.ckpt in it, or the newest at all, or one that goes
    further, where the run was killed right after it; "best" is what the run's ModelCheckpoint
    found best.

    Raises:
        ValueError: naming the place, if nothing is there, and the newest other runs.
    """
    if setting not in NAMES:
        path = Path(setting)
        if not path.is_file():
            beside = ", ".join(sorted(file.name for file in path.parent.glob("*.ckpt")))
            raise ValueError(
                f'`--ckpt_path` must be a file, "last" or "best", got {setting!r}, which is not '
                f"there{f' (beside it: {beside})' if beside else ''}."
            )
        return path
    place, around = _folder_of_runs(logger, own)
    found = sorted(place.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise ValueError(
            f"`--ckpt_path {setting}`: no checkpoint (*.ckpt) in {place.absolute()}"
            f"{_other_runs(around)}."
        )
    run = [path for path in found if path.parent == found[-1].parent]
    if setting == "last":
        last = ([path for path in run if path.stem.startswith("last")] or run)[-1]
        return _furthest(last, run[run.index(last) + 1 :])
    states = read_checkpoint(run[-1]).get("callbacks", {}).values()
    known = (s["best_model_path"] for s in states if s.get("monitor"))
    for best in filter(None, known):  # empty: nothing was validated yet
        # The run may have been moved since; or resumed, and none better was found.
        for path in (run[-1].with_name(Path(best).name), Path(best)):
            if path.is_file():
                return path
    raise ValueError(
        f"`--ckpt_path best`: no best checkpoint is known in {run[-1].parent}. That takes a "
        'ModelCheckpoint with `monitor` in the config; "last" works without.'
    )


def _furthest(last: Path, newer: list[Path]) -> Path:
    """The newest of `newer` that goes further than `last` and can be gone on from; or `last`."""
    updates = read_checkpoint(last)["global_step"] if newer else 0
    for path in reversed(newer):
        try:
            content = read_checkpoint(path)
        except ValueError:  # another file, or damaged
            continue
        if content.get("global_step", 0) > updates and "optimizer_states" in content:
            return path
    return last


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A Lightning checkpoint, read with ``weights_only=True``.

    Raises:
        ValueError: naming the path, if it is something else, and the newest beside it that is none.
    """
    try:
        content = _whole(path)
    except Exception as error:  # pickle, zipfile, torch: each has types of its own
        raise ValueError(
            f"`--ckpt_path` must be a checkpoint of a run, got {path}, which cannot be read as one "
            f"({type(error).__name__}).{_instead_of(path)}"
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise ValueError(
            f"`--ckpt_path` must be a checkpoint of a run, got another file: {path}."
            f"{_instead_of(path)}"
        )
    return content


def _whole(path: Path) -> Any:
    """The content of a file of torch; its checksums, which torch does not look at, are right."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if zipfile.is_zipfile(path):  # as all are since torch 1.6
        with zipfile.ZipFile(path) as archive:
            if (name := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{name} has changed")
    return content


def _instead_of(path: Path) -> str:
    """Names the newest checkpoint in the folder of `path` that can be read."""
    others = {other: other.stat().st_mtime_ns for other in path.parent.glob("*.ckpt")}
    for other in sorted(others, key=lambda other: -others[other]):
        try:
            content = _whole(other)
        except Exception:  # as above
            continue
        if isinstance(content, dict) and "state_dict" in content:
            return f" The newest beside it that can be read is {other}."
    return ""


def settings_of(checkpoint: Mapping[str, Any], part: str) -> dict[str, Any] | None:
    """What a config would say of the "model" or the "data" that wrote `checkpoint`.

    None if it was not made by the command line: such a checkpoint does not hold its network.
    """
    key = {"model": "hyper_parameters", "data": "datamodule_hyper_parameters"}[part]
    hparams = dict(checkpoint.get(key) or {})
    hparams.pop("_instantiator", None)
    if "_class_path" not in hparams:
        return None
    return {"class_path": hparams.pop("_class_path"), "init_args": hparams}


def data_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """As `settings_of` "data", but of one made in Python what it kept, under no class."""
    hparams = dict(checkpoint.get("datamodule_hyper_parameters") or {})
    return settings_of(checkpoint, "data") or {"class_path": None, "init_args": hparams}


def task_settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings of a datamodule those that are kept where a flag names another.

    They say what a task is: its classes, shots and images. Another datamodule that does not know
    one of them goes without.
    """
    kept = {name: value for name, value in data["init_args"].items() if name in OF_TASKS}
    return {"class_path": data["class_path"], "init_args": kept}


def settings_from_python(
    checkpoint: Mapping[str, Any], path: Path, given: dict[str, Any] | None
) -> dict[str, Any]:
    """As `settings_of` "model" for a learner made in Python: its modules are those of `given`.

    They are the network of a `MetaLearner`, policy and environment of a `MetaPolicy`.

    Raises:
        ValueError: if one is not there, or this is no checkpoint of these learners.
    """
    hparams = checkpoint.get("hyper_parameters") or {}
    if not {"inner_lr", "meta_lr"} & hparams.keys():
        raise ValueError(
            f"`--ckpt_path` must be a checkpoint of a MetaLearner or a MetaPolicy, got {path}."
        )
    acts = "max_kl" in hparams
    kind, names = ("MetaPolicy", ("policy", "environment")) if acts else ("MetaLearner", ("model",))
    init_args = (given or {}).get("init_args") or {}
    modules = {name: init_args.get(name) for name in names}
    if given is None or None in modules.values():
        what, arguments = " and ".join(names), ", ".join(f"{name}=..." for name in names)
        raise ValueError(
            f"`--ckpt_path`: {path} was made in Python and does not hold its {what}. Give "
            f"`--config` with the {what}, or use `{kind}.load_from_checkpoint(path, {arguments})`."
        )
    return {"class_path": given["class_path"], "init_args": {**hparams, **modules}}


def check_model(saved: Mapping[str, Any], wanted: Mapping[str, Any], path: Path) -> None:
    """Refuse model settings that contradict the checkpoint, but for those in `FREE`.

    Raises:
        ValueError: naming each key and both values.
    """
    old, new = dict(_leaves(saved, "model")), dict(_leaves(wanted, "model"))
    free = {f"model.init_args.{name}" for name in FREE}
    differing: list[str] = []
    for key in [*old, *(key for key in new if key not in old)]:
        other_class = any(key.startswith(k.removesuffix("class_path")) for k in differing)
        if old.get(key) != new.get(key) and key not in free and not other_class:
            differing.append(key)
    if differing:
        raise ValueError(
            " ".join(
                f"`{key}` must be {json.dumps(old.get(key))} as in the checkpoint, "
                f"got {json.dumps(new.get(key))}."
                for key in differing
            )
            + f" (Checkpoint: {path}; free to change: {', '.join(FREE)}.)"
        )


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """All settings below `key` with their full names, the class before its arguments."""
    if not isinstance(value, Mapping):
        yield key, value
        return
    for name in sorted(value):
        yield from _leaves(value[name], f"{key}.{name}")


def _folder_of_runs(logger: Any, own: Path | None) -> tuple[Path, Path]:
    """Where the config's runs are, and where those of other configs are beside them."""
    first = logger[0] if isinstance(logger, list) and logger else logger
    options = first.get("init_args") if hasattr(first, "get") else None
    if not options or not options.get("save_dir"):
        return own or RUNS, RUNS
    wandb = str(first.get("class_path")).endswith("WandbLogger")  # its folders are by project
    place = Path(options["save_dir"])
    return place / (options.get("project" if wandb else "name") or ""), place


def _other_runs(place: Path, most: int = 3) -> str:
    """Names the newest checkpoint of each run below `place`, as the end of a sentence."""
    newest: dict[Path, Path] = {}
    for path in sorted(place.rglob("*.ckpt"), key=lambda path: -path.stat().st_mtime_ns):
        newest.setdefault(path.parent, path)
    if not newest:
        return ""
    some = ", ".join(map(str, list(newest.values())[:most]))
    return f"; runs of other configs, if you mean one give its path: {some}"
