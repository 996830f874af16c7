"""Where a result comes from: settings, code, versions, device, as plain JSON."""

import hashlib
import importlib.metadata
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

PACKAGES = ("torch", "lightning", "torchmetrics", "numpy", "lightning-maml")


def provenance(trainer: Trainer, learner: LightningModule) -> dict[str, Any]:
    """Everything needed to get the same result again. Holds no environment variables."""
    return {
        **checkpoint_facts(trainer),
        "model": settings(learner),
        "data": settings(getattr(trainer, "datamodule", None)),
        **surroundings(trainer),
    }


def surroundings(trainer: Trainer) -> dict[str, Any]:
    """Who ran what, when, and on what, whatever the model and the data."""
    return {
        "seed": global_seed(),
        "command": command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(Path(__file__)),
        "versions": versions(),
        "device": device(trainer),
    }


def command_line() -> str:
    """What this process was called with."""
    return shlex.join(sys.argv)


def checkpoint_facts(trainer: Trainer) -> dict[str, Any]:
    """The checkpoint in use, if one was loaded: its meta-updates, its run's seed, commands and
    seconds of training until then, its weights. What is not known is None.
    """
    path = trainer.ckpt_path
    if path is None:
        return {"checkpoint": None, "meta_updates": trainer.global_step}
    content: dict[str, Any] = {}
    if Path(path).is_file():
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    run = content.get("callbacks", {}).get("RunState", {})
    return {
        "checkpoint": str(path),
        "meta_updates": content.get("global_step"),
        "training_seed": run.get("seed"),
        "training_commands": run.get("commands"),
        "training_seconds": run.get("seconds"),
        "weights": weights_digest(content["state_dict"]) if content else None,
    }


def weights_digest(state_dict: Mapping[str, torch.Tensor]) -> str:
    """16 hexadecimal digits that tell the weights of one training from those of another."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state_dict.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def settings(owner: Any) -> dict[str, Any] | None:
    """Class and hyperparameters of a learner or a datamodule; None if there is none."""
    if owner is None:
        return None
    kind = f"{type(owner).__module__}.{type(owner).__qualname__}"
    hparams = {name: v for name, v in owner.hparams.items() if not name.startswith("_")}
    return {"class_path": owner.hparams.get("_class_path", kind), "init_args": plain(hparams)}


def plain(value: Any) -> Any:
    """`value` as strictly valid JSON has it: numbers that are not finite become None.

    >>> plain({"a": (1, float("nan")), "b": Path("x")})
    {'a': [1, None], 'b': 'x'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if callable(value):
        named = value if hasattr(value, "__qualname__") else type(value)
        return f"{named.__module__}.{named.__qualname__}"
    return str(value)


def git_state(file: Path) -> dict[str, Any] | None:
    """Commit of the checkout that `file` is tracked in, and whether files differ from it."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(file.parent), *args]
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):  # no git, or not a checkout
        return None


def versions() -> dict[str, str | None]:
    """Versions of Python and the packages that a result may depend on; None: not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def device(trainer: Trainer) -> dict[str, Any]:
    """What the result was computed on."""
    root = trainer.strategy.root_device
    cuda = root.type == "cuda"
    return {
        "type": root.type,
        "name": torch.cuda.get_device_name(root) if cuda else cpu_name(),
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
    }


def cpu_name() -> str:
    """The processor's model."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def global_seed() -> int | None:
    """That of `seed_everything`; None if it was not called."""
    seed = os.environ.get("PL_GLOBAL_SEED", "")  # where Lightning's seed_everything keeps it
    return int(seed) if seed.isdecimal() else None
