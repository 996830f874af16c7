"""After each validation, figures for the loggers that show any: W&B and TensorBoard."""

from typing import Any, Protocol, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from torch import Tensor

from lightning_maml.episode import Episode, TaskBatch
from lightning_maml.run.figures import Picture, classified_images, fitted_curve, inner_step_curve
from lightning_maml.run.fits import drawable
from lightning_maml.task_curve import TaskCurve, summarize

TASKS = 3


class Adapting(Protocol):
    """What a learner must have for its tasks to be drawn."""

    curve: TaskCurve
    metric_name: str
    worst_metric: float  # what counts for one that is not finite: infinity or minus infinity

    def outputs(self, episode: Episode) -> Tensor:
        """``[inner steps + 1, tasks, query examples, ...]``."""

    def pictures(self, batch: TaskBatch) -> list[Picture]:
        """Of those tasks that the learner chooses; only where batches are `TaskBatch`es."""


class SampleTasks(Callback):
    """Draws the validation curve over inner steps, and the first validation tasks.

    Tasks are drawn where there is a way to: images with their classes, regressions of one number
    on one number. Learners that act in tasks draw them themselves. They are the same tasks at each
    validation.
    """

    def __init__(self) -> None:
        self._first: Episode | TaskBatch | None = None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Episode | TaskBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember the first tasks."""
        wanted = batch_idx == 0 and trainer.is_global_zero and not trainer.sanity_checking
        if wanted and isinstance(batch, Episode):
            self._first = Episode(*(part[:TASKS] for part in batch))
        elif wanted and isinstance(batch, TaskBatch):
            self._first = batch

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and log."""
        learner, first, self._first = cast(Adapting, pl_module), self._first, None
        result, _ = learner.curve.collected()  # of all processes: each must ask
        loggers = [one for one in trainer.loggers if shows_figures(one)]
        if not loggers or not trainer.is_global_zero or trainer.sanity_checking:
            return
        summary = summarize(result, learner.worst_metric)
        curve = inner_step_curve(summary.mean.tolist(), summary.ci95.tolist(), learner.metric_name)
        pictures = {"val/curve": [curve]}
        if first is not None and (tasks := _drawn(learner, first)):
            pictures["val/tasks"] = tasks
        for logger in loggers:
            for name, images in pictures.items():
                _show(logger, name, images, trainer.global_step)


def _drawn(learner: Adapting, tasks: Episode | TaskBatch) -> list[Picture]:
    if isinstance(tasks, TaskBatch):
        return learner.pictures(tasks)
    return draw(tasks, learner.outputs(tasks))


def shows_figures(logger: Logger) -> bool:
    """Whether a logger takes figures."""
    return isinstance(logger, WandbLogger | TensorBoardLogger)


def draw(episode: Episode, outputs: Tensor) -> list[Picture]:
    """One picture per task, none where there is no way to draw it.

    Shapes: ``outputs [inner steps + 1, tasks, query examples, ...]``.
    """
    regression = drawable(episode)
    episode = Episode(*(part.detach().float().cpu() for part in episode))
    outputs = outputs.detach().float().cpu()
    outputs = outputs.where(outputs.isfinite(), torch.nan)  # drawn as gaps
    shape, classes = episode.query_x.shape[2:], outputs.ndim == 4
    if len(shape) == 3 and shape[0] in (1, 3) and classes and episode.query_y.ndim == 2:
        predicted = outputs[-1].argmax(dim=-1)
        tasks = zip(episode.query_x, episode.query_y, predicted, strict=True)
        return [classified_images(*task) for task in tasks]
    if regression and outputs.shape[1:] == episode.query_y.shape:
        return [
            fitted_curve((sx, sy), (qx, qy), before, after)
            for sx, sy, qx, qy, before, after in zip(*episode, outputs[0], outputs[-1], strict=True)
        ]
    return []


def _show(logger: Logger, name: str, images: list[Picture], step: int) -> None:
    if isinstance(logger, WandbLogger):
        logger.log_image(name, list(images), step)
        return
    writer = logger.experiment  # type: ignore[attr-defined]
    for number, image in enumerate(images):
        writer.add_image(f"{name}/{number}", image, step, dataformats="HWC")
