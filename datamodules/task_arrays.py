"""A task as arrays: read from its file or returned by a function, and checked."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ONE_SET = ("x", "y")
TWO_SETS = ("support_x", "support_y", "query_x", "query_y")


class Examples(NamedTuple):
    """Inputs ``[examples, ...]`` and targets ``[examples, ...]``."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class TaskArrays:
    """A task's examples: one set to draw support and query examples from, or a set for each.

    Attributes:
        name: what errors call it, e.g. its file
    """

    name: str
    sets: tuple[Examples, ...]

    def digest(self) -> bytes:
        """16 bytes that are equal for equal arrays."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (tensor for examples in self.sets for tensor in examples):
            digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        return digest.digest()


def read_task(path: Path) -> TaskArrays:
    """The task in an ``.npz`` or ``.pt`` file; nothing in it is executed.

    Raises:
        ValueError: with the path, if it cannot be read or is not as `task_from` says.
    """
    try:
        content = READERS[path.suffix](path)
    except Exception as error:  # torch and zipfile raise types of their own
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"cannot read the task {path}: {reason}") from error
    return task_from(content, str(path))


def task_from(content: object, name: str) -> TaskArrays:
    """The task in a mapping: arrays `x` and `y`, or `support_x`, `support_y`, `query_x`, `query_y`.

    Floats become float32, integers int64; `x` of uint8 stays so, for bytes that become numbers in
    [0, 1] on the device, as of images; `x` of truth values becomes float32.

    Raises:
        ValueError: with `name`, if arrays are missing, of unequal length, empty, not finite, or no
            arrays of numbers.
    """
    arrays = dict(content) if isinstance(content, Mapping) else {}
    keys = TWO_SETS if set(TWO_SETS) & set(arrays) else ONE_SET
    if missing := [key for key in keys if key not in arrays]:
        got = ", ".join(map(str, arrays)) if arrays else type(content).__name__
        raise ValueError(
            f"the task {name} must hold `x` and `y`, or {', '.join(f'`{k}`' for k in TWO_SETS)}: "
            f"no `{missing[0]}` in {got}."
        )
    tensors = [_tensor(arrays[key], key, name) for key in keys]
    for i in range(0, len(keys), 2):
        x, y = (tensor.shape[0] for tensor in tensors[i : i + 2])
        if x != y or x == 0:
            raise ValueError(
                f"the task {name}: `{keys[i]}` and `{keys[i + 1]}` must hold the same number of "
                f"examples, at least one, got {x} and {y}."
            )
    return TaskArrays(name, tuple(map(Examples, tensors[::2], tensors[1::2])))


def check_alike(tasks: Iterable[TaskArrays]) -> None:
    """Raise ValueError, with its name, if a task's examples have other shapes or types."""
    first: tuple[str, list[str]] | None = None
    for task in tasks:
        for examples in task.sets:
            kinds = [
                f"`{key}` {str(tensor.dtype).removeprefix('torch.')} "
                f"{['examples', *tensor.shape[1:]]}".replace("'", "")
                for key, tensor in examples._asdict().items()
            ]
            first = first or (task.name, kinds)
            if kinds != first[1]:
                raise ValueError(
                    f"the task {task.name} must have examples like those of {first[0]}, "
                    f"{', '.join(first[1])}, got {', '.join(kinds)}."
                )


def _tensor(value: object, key: str, name: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"the task {name}: `{key}` must be an array of numbers.") from error
    targets = key.endswith("y")
    if tensor.ndim == 0 or tensor.is_complex():
        raise ValueError(
            f"the task {name}: `{key}` must be real numbers [examples, ...], "
            f"got {tensor.dtype} {list(tensor.shape)}."
        )
    if tensor.is_floating_point():
        if targets and tensor.ndim == 1:
            raise ValueError(
                f"the task {name}: `{key}` must be [examples, outputs] if it holds floats (class "
                f"numbers are integers), got {list(tensor.shape)}. For one output: y[:, None]."
            )
        if not tensor.isfinite().all():
            raise ValueError(f"the task {name}: `{key}` must be finite, got nan or inf.")
        return tensor.to(torch.float32)
    if not targets and tensor.dtype in (torch.uint8, torch.bool):
        return tensor.to(torch.float32) if tensor.dtype == torch.bool else tensor
    return tensor.to(torch.int64)


def _read_npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def _read_pt(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


READERS: dict[str, Callable[[Path], object]] = {".npz": _read_npz, ".pt": _read_pt}
