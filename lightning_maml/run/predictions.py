"""What `predict` leaves behind: the outputs for every task, in the run's folder."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_maml.episode import Episode
from lightning_maml.run.files import unused_stem, write_whole
from lightning_maml.run.folder import run_folder


class PredictionFile(Callback):
    """Writes ``predictions.pt``: a dict of "output" and "target" of the query examples.

    Read it with ``torch.load(path, weights_only=True)``. Each process of a distributed run writes
    its own tasks, to ``predictions_rank<r>.pt``.

    Shapes: output ``[tasks, examples, ...]``, target as in the episodes.
    """

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        self.targets: list[Tensor] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Episode,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect a batch."""
        self.outputs.append(outputs.cpu())
        self.targets.append(batch.query_y.cpu())

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all."""
        folder = run_folder(trainer)
        several = trainer.world_size > 1
        stem = f"predictions_rank{trainer.global_rank}" if several else "predictions"
        path = folder / f"{unused_stem(folder, stem, ['.pt'])}.pt"
        content = {"output": torch.cat(self.outputs), "target": torch.cat(self.targets)}
        write_whole(path, lambda file: torch.save(content, file), mode="wb")
        print(f"predictions: {path}", flush=True)
