"""Spares a run without a GPU the search for one at each step of its optimizer.

Adam asks there whether CUDA is available. Lightning has torch answer that by loading NVML's
library, each time anew, lest CUDA is initialised before processes are forked. Where there is no
device there is nothing to initialise.
"""

import os

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"


class SkipDeviceCount(Callback):
    """While a run without a GPU trains."""

    def __init__(self) -> None:
        super().__init__()
        self._before: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have torch ask the driver, which takes next to nothing."""
        if not torch.cuda.is_available():
            self._before = os.environ.pop(BY_NVML, None)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As it was."""
        self._restore()

    def on_exception(self, *_: object) -> None:
        """So, too, after an error."""
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            os.environ[BY_NVML], self._before = self._before, None
