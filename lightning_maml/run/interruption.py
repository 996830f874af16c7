"""Every end of a training leaves a checkpoint: the last update, Ctrl-C and SIGTERM."""

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from lightning_maml.run.files import unused_stem
from lightning_maml.run.folder import run_folder

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class GracefulStop(Callback):
    """Writes ``last.ckpt`` when the run ends, at `max_steps` or by a first SIGINT or SIGTERM.

    A signal is obeyed after the batch under way; the program then ends with the exit code of the
    signal, 130 or 143. A second signal stops it at once, without a checkpoint. All processes of a
    distributed run stop after the same batch, even if only one of them got the signal. Where a
    validation follows, that and one more batch come first, since a run cannot go on from between.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for the signals."""
        self.received = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if a signal came.

        Raises:
            SystemExit: if so.
        """
        stop = self.received is not None
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        over = 0 <= trainer.max_steps <= trainer.global_step
        if not (stop or over) or validation_follows(trainer, batch_idx):
            return
        path = _path(trainer)
        if path is not None:
            trainer.save_checkpoint(path)
        if stop and not over:
            rank_zero_info(
                f"Stopped; the run can go on with --ckpt_path {path}" if path else "Stopped"
            )
            self.teardown(trainer, pl_module, "fit")
            raise SystemExit(128 + (self.received or signal.SIGTERM))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen no more."""
        self.teardown(trainer, pl_module, "fit")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Listen no more."""
        self.teardown(trainer, pl_module, "fit")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Hand the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            self.teardown(None, None, "fit")  # type: ignore[arg-type]
            signal.raise_signal(number)
            return
        self.received = number
        rank_zero_info("\nStopping after this batch, with a checkpoint; once more: at once.")


def validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    """Whether the trainer validates right after training batch `batch_idx` of the epoch."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every and (trainer.current_epoch + 1) % every):
        return False
    batches = batch_idx + 1 if every else trainer.fit_loop.total_batch_idx + 1
    last = bool(every) and trainer.is_last_batch
    return last or batches % (trainer.val_check_batch or 1) == 0


def _path(trainer: Trainer) -> Path | None:
    """Where the checkpoint goes; None if the run wants none."""
    savers = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
    if not savers:
        return None
    folder = Path(savers[0].dirpath or run_folder(trainer) / "checkpoints")
    path = folder / "last.ckpt"
    ours = {p for saver in savers for p in (saver.best_model_path, saver.last_model_path)}
    if path.exists() and str(path) not in ours:  # of another run
        path = folder / f"{unused_stem(folder, 'last', ['.ckpt'])}.ckpt"
    return path
