"""Ends a run at a chosen moment as a power cut would: no handler runs, nothing is flushed."""

import io
import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.optimizer import register_optimizer_step_post_hook

from datamodules.episode_loader import EpisodeBatches
from lightning_maml.meta_update import MetaUpdate
from lightning_maml.run import checkpointing, files

MOMENTS = (
    "loading a batch",
    "before an update",
    "after an update",
    "within a checkpoint",
    "before its renaming",
    "after its renaming",
    "validating",
    "by the clock",
)


def kill(*_: Any) -> None:
    """As `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


class Kill(Callback):
    """Kills this process at the `count`-th time of a moment.

    By the clock: some milliseconds after the `count`-th batch began, wherever the run is then.
    """

    def __init__(self, moment: str = "", count: int = 0) -> None:
        assert moment in ("", *MOMENTS)
        self.moment, self.count, self.seen = moment, count, 0
        self.timer: threading.Timer | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lie in wait."""
        if self.moment == "loading a batch":
            EpisodeBatches.__getitem__ = self._first(EpisodeBatches.__getitem__)
        elif self.moment == "before an update":
            MetaUpdate.clip = self._first(MetaUpdate.clip)
        elif self.moment == "after an update":
            register_optimizer_step_post_hook(self._first(lambda *_: None))
        elif self.moment not in ("", "validating", "by the clock"):
            whole = checkpointing.write_whole
            checkpointing.write_whole = lambda *args, **kwargs: self._write(whole, *args, **kwargs)

    def on_train_batch_start(self, *_: Any) -> None:
        """Set the clock; a generator of its own leaves those of the run as they are."""
        if self.moment != "by the clock":
            return
        self.seen += 1
        if self.seen == self.count:
            self.timer = threading.Timer(random.Random(self.count).uniform(0, 0.05), kill)
            self.timer.daemon = True
            self.timer.start()

    def on_train_end(self, *_: Any) -> None:
        """A run that is over before is killed, too."""
        if self.timer is not None:
            self.timer.join()

    def on_validation_batch_start(self, *_: Any) -> None:
        """In the first validation of this process, or a later one."""
        if self.moment == "validating":
            self._count()

    def _first(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self._count()
            return function(*args, **kwargs)

        return counted

    def _count(self) -> None:
        self.seen += 1
        if self.seen == self.count:
            kill()

    def _write(
        self, whole: Callable[..., None], path: Path, write: Callable[[Any], object], mode: str
    ) -> None:
        self.seen += 1
        if self.seen == self.count and self.moment == "within a checkpoint":
            content = io.BytesIO()
            write(content)
            half = content.getvalue()[: content.tell() // 2]
            whole(path, lambda file: (file.write(half), file.flush(), kill()), mode)
        if self.seen == self.count and self.moment == "before its renaming":
            files.os.replace = kill
        whole(path, write, mode)
        if self.seen == self.count:
            kill()
