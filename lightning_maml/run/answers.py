"""What `predict` leaves behind for a `Question`: a table of class probabilities."""

import csv
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_maml.adapted import as_targets, check_classes, outputs_for
from lightning_maml.baselines import EpisodicLearner, Pretrained
from lightning_maml.episode import Question
from lightning_maml.meta_learner import MetaLearner
from lightning_maml.run.files import unused_stem, write_whole
from lightning_maml.run.folder import run_folder


@runtime_checkable
class Asks(Protocol):
    """A datamodule whose one batch of prediction is a `Question`."""

    def question(self, dtype: torch.dtype = torch.float32) -> Question:
        """What it asks, images as floats."""


def check_question(learner: LightningModule, data: Asks) -> None:
    """Refuse, before a run begins, a question that `learner` cannot answer.

    Raises:
        ValueError: naming what does not fit.
    """
    if isinstance(learner, Pretrained) and learner.tunes:
        raise ValueError(
            f"`data` must have validation tasks, on which {type(learner).__name__} tunes its steps,"
            f" got {type(data).__name__}; use a MetaLearner."
        )
    if not isinstance(learner, MetaLearner):  # others refuse for themselves
        return
    question = data.question()
    images = question.support_x.to(learner.device)
    if isinstance(learner, EpisodicLearner | Pretrained):
        learner.fast_adapt(images, question.labels, statistics=question.statistics)
    else:
        targets, names = as_targets(question.labels)
        check_classes(names, outputs_for(learner.engine, images[:2], targets), "support")


class AnswerFile(Callback):
    """Writes ``predictions.csv``: file, class name, and the probability of each, ``p_<class>``.

    One row for each query image, in their order.
    """

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Question,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write it; of several processes, which all have it, the first."""
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        path = folder / f"{unused_stem(folder, 'predictions', ['.csv'])}.csv"
        rows = table(batch, outputs.cpu())
        write_whole(path, lambda file: csv.writer(file, lineterminator="\n").writerows(rows))
        print(f"predictions: {path}", flush=True)


def table(question: Question, probabilities: Tensor) -> list[Sequence[object]]:
    """Head and rows of the file, from ``probabilities [Q, classes]``."""
    _, names = as_targets(question.labels)
    rows: list[Sequence[object]] = [("file", "class", *(f"p_{name}" for name in names))]
    for file, shares in zip(question.files, probabilities.double().tolist(), strict=True):
        likeliest = names[max(range(len(names)), key=shares.__getitem__)]
        rows.append((file, likeliest, *(f"{share:.9g}" for share in shares)))
    return rows
