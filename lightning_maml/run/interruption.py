"""Every end of a training leaves a checkpoint: its limits, Ctrl-C and SIGTERM."""

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
    """Writes ``last.ckpt`` when the run ends, by itself or by a first SIGINT or SIGTERM.

    A signal is obeyed after the batch under way; the program then ends with the exit code of the
    signal, 130 or 143. A second signal stops it at once, without a checkpoint. All processes of a
    distributed run stop after the same batch, even if only one of them got the signal. Where a
    validation follows, that and one more batch come first, since a run that goes on from between
    would leave the validation out.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._put_off = False  # a validation came first
        self._saved = -1  # meta-update of the newest checkpoint of ours
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for the signals."""
        self.received, self._put_off = None, False
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
        if not (stop or over):
            return
        if validation_follows(trainer) and not self._put_off:
            self._put_off = True
            return
        path, self._saved = _save(trainer), trainer.global_step
        if stop and not over:
            rank_zero_info(
                f"Stopped; the run can go on with --ckpt_path {path}" if path else "Stopped"
            )
            self.teardown(trainer, pl_module, "fit")
            # Of the others Lightning takes it for a crash, and kills the first process for it.
            failed = trainer.is_global_zero
            raise SystemExit(128 + (self.received or signal.SIGTERM) if failed else 0)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave ``last.ckpt`` if the last update has none; listen no more."""
        done = trainer.global_step
        if self._saved != done and not any(_has_last(saver, done) for saver in _savers(trainer)):
            _save(trainer)
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
            # Not the handler from before: Lightning's only takes note of a SIGTERM.
            at_once = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, at_once)
            signal.raise_signal(number)
            return
        self.received = number
        rank_zero_info("\nStopping after this batch, with a checkpoint; once more: at once.")


def validation_follows(trainer: Trainer) -> bool:
    """Whether the trainer validates right after the training batch that ends now."""
    loop = trainer.fit_loop
    fetcher = loop._data_fetcher
    return fetcher is not None and loop.epoch_loop._should_check_val_fx(fetcher)


def _savers(trainer: Trainer) -> list[ModelCheckpoint]:
    return [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]


def _has_last(saver: ModelCheckpoint, update: int) -> bool:
    """Whether `saver` has written a ``last.ckpt`` of that meta-update that a run can go on from."""
    newest = saver.last_model_path if saver.save_last else saver._last_checkpoint_saved
    resumable = Path(newest).stem.startswith("last") and not saver.save_weights_only
    return resumable and saver._last_global_step_saved == update


def _save(trainer: Trainer) -> Path | None:
    """Write ``last.ckpt`` and return its path; None if the run wants no checkpoints."""
    savers = _savers(trainer)
    if not savers or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    folder = Path(savers[0].dirpath or run_folder(trainer) / "checkpoints")
    path = folder / "last.ckpt"
    ours = {p for saver in savers for p in (saver.best_model_path, saver.last_model_path)}
    if path.exists() and str(path) not in ours:  # of another run
        path = folder / f"{unused_stem(folder, 'last', ['.ckpt'])}.ckpt"
    trainer.save_checkpoint(path, weights_only=False)
    return path
