"""Resuming to the bit: checkpoints that are whole, and hold all that training depends on."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_maml.run.files import write_whole
from lightning_maml.run.provenance import command_line, global_seed


class AtomicCheckpointIO(TorchCheckpointIO):
    """A checkpoint appears under its name whole or not at all.

    Lightning's own goes through the system's temporary folder, from where a file of another disk
    arrives byte by byte. Remote paths (``s3://...``) are left to Lightning.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write beside `path`, then rename.

        Raises:
            OSError: naming `path`, if the disk does not take it; what was there stays.
            TypeError: if `storage_options` are given.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            write_whole(Path(path), lambda file: torch.save(checkpoint, file), mode="wb")
        except (OSError, RuntimeError) as error:  # torch's writer hides the system's in its own
            cause = error if isinstance(error, OSError) else error.__context__ or error
            raise OSError(
                f"The checkpoint {path} cannot be written ({cause}); one that was there before is "
                "as it was."
            ) from error


class RunState(Callback):
    """Keeps in each checkpoint the run's seed, its commands (that of each resumption, too), its
    seconds of training, and the states of all random generators.

    Each process has its own generators.
    With them a resumed run draws the dropout masks that the uninterrupted one would have drawn.
    """

    def __init__(self) -> None:
        self._resumed: list[dict[str, Any]] = []
        self._commands = [command_line()]
        self._meant: frozenset[str] = frozenset()
        self._before: float | None = 0.0  # seconds of the runs that it goes on with; None: unknown
        self._start: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what is infinite by intention, such as the buffer of an attention mask."""
        trained = {name for name, p in pl_module.named_parameters() if p.requires_grad}
        self._meant = frozenset(
            name
            for name, tensor in pl_module.state_dict().items()
            if name not in trained and not _is_finite(tensor)
        )

    def state_dict(self) -> dict[str, Any]:
        """Of all processes; each must call it."""
        states = [generator_states()]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            states *= torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, generator_states())
        return {
            "generators": states,
            "seed": global_seed(),
            "commands": self._commands,
            "seconds": self._seconds(),
        }

    def _seconds(self) -> float | None:
        """Of training so far, with the runs that it goes on with; None if one did not record it."""
        if self._before is None or self._start is None:
            return self._before
        return self._before + time.monotonic() - self._start

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write no weights or buffers that are not finite: nobody could go on from them.

        Raises:
            FloatingPointError: naming the tensor and the meta-update.
        """
        for name, tensor in checkpoint["state_dict"].items():
            if name not in self._meant and not _is_finite(tensor):
                raise FloatingPointError(
                    f"`{name}` is not finite after meta-update {trainer.global_step}: no "
                    "checkpoint is written. Try a smaller `meta_lr` or `inner_lr`."
                )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the generators until training starts. Older checkpoints have no commands or time."""
        self._resumed = state_dict["generators"]
        self._before = state_dict.get("seconds")
        self._commands = [*state_dict.get("commands", []), self._commands[-1]]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the generators back, unless another number of processes goes on with the run."""
        self._start = time.monotonic()
        if len(self._resumed) == trainer.world_size:
            set_generator_states(self._resumed[trainer.global_rank])
        elif self._resumed:
            rank_zero_info(
                f"The random generators start anew: the checkpoint is of {len(self._resumed)} "
                f"processes, and these are {trainer.world_size}."
            )
        self._resumed = []

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock; another `fit` of the same trainer adds to it."""
        self._before, self._start = self._seconds(), None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Have the best score carried over into the new run's folder.

        Lightning forgets it when the folder changes, and calls the next validation's the best.
        """
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            state = checkpoint.get("callbacks", {}).get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and state:
                state["dirpath"] = callback.dirpath


def _is_finite(value: Any) -> bool:
    """Also of what a module keeps beside tensors."""
    return not isinstance(value, torch.Tensor) or bool(value.isfinite().all())


def generator_states() -> dict[str, Any]:
    """States of the generators of torch (CPU and current GPU), numpy and Python, as plain data."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "python": random.getstate(),
    }


def set_generator_states(states: dict[str, Any]) -> None:
    """Undo what was drawn since `generator_states`."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
