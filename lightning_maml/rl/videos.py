"""After each validation, short videos of a robot before and after adaptation.

Shown are episodes that evaluation has, made again from the same random numbers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image, ImageDraw

from lightning_maml.episode import TaskBatch
from lightning_maml.rl.environment import DrawingError, Environment, State
from lightning_maml.rl.rollout import Look
from lightning_maml.rl.trajectories import Watched
from lightning_maml.run.figures import Picture
from lightning_maml.run.files import write_whole
from lightning_maml.run.folder import run_folder

TASKS = 2
MOST_FRAMES = 50  # beside that of the start
WIDTH, HEIGHT, FRAME_MS = 240, 180, 40


class Video(NamedTuple):
    """Of a validation task: its number, a caption, and frames ``[height, width, 3]``."""

    task: int
    caption: str
    frames: list[Picture]


class Filmed(Protocol):
    """What a learner must have for videos of it."""

    environment: Environment
    eval_trajectories: int

    def watch(self, batch: TaskBatch, look: Look) -> list[Watched]:
        """Evaluation's rollouts before and after adaptation, or one without inner steps."""


class Videos(Callback):
    """Writes ``videos/step_<meta-updates>_task_<number>.gif`` to the run's folder; also for W&B.

    Where the machine cannot draw there is one warning, and no videos. None with
    ``Trainer(fast_dev_run=...)``.
    """

    def __init__(self) -> None:
        self._first: TaskBatch | None = None
        self._can_draw = True

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: TaskBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Remember the first tasks."""
        if batch_idx == 0:
            self._first = batch

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, write and log."""
        folder = run_folder(trainer) / "videos"  # each process must ask
        batch, self._first = self._first, None
        idle = trainer.sanity_checking or trainer.fast_dev_run  # type: ignore[attr-defined]
        if batch is None or idle or not trainer.is_global_zero or not self._can_draw:
            return
        try:
            made = videos(cast(Filmed, pl_module), batch)
        except DrawingError as error:
            self._can_draw = False
            rank_zero_warn(f"`render` is true, but there will be no videos. {error}")
            return
        step = trainer.global_step
        paths = [folder / f"step_{step}_task_{video.task}.gif" for video in made]
        for path, video in zip(paths, made, strict=True):
            save_gif(path, video.frames)
        captions = [video.caption for video in made]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_video("val/videos", [*map(str, paths)], step, caption=captions)


def videos(learner: Filmed, batch: TaskBatch) -> list[Video]:
    """Of the first tasks that differ, each task's first episode before and after, side by side.

    Raises:
        DrawingError: where the machine cannot.
    """
    environment: Any = learner.environment
    _, first = np.unique(batch.task.cpu().numpy(), axis=0, return_index=True)
    chosen = sorted(first.tolist())[:TASKS]
    rows = [place * learner.eval_trajectories for place in range(len(chosen))]
    every = -(-environment.horizon // MOST_FRAMES)

    def look(t: int, state: State) -> list[Picture] | None:
        if t % every or t > environment.horizon:
            return None
        return [environment.frame(state, row, width=WIDTH, height=HEIGHT) for row in rows]

    watched = learner.watch(TaskBatch(*(part[chosen].cpu() for part in batch)), look)
    made = []
    for place, task in enumerate(chosen):
        numbers = ", ".join(f"{value:.3g}" for value in batch.task[task].tolist())
        sides, labels = [], []
        for one, when in zip(watched, ("before", "after"), strict=False):
            labels.append(f"{when} adaptation: return {_first_return(one, place):.1f}")
            reel = _reel(one, place, every)
            sides.append(_labelled(reel, f"task {numbers}, {labels[-1]}"))
        caption = f"task {numbers}, " + ", ".join(labels)
        made.append(Video(task, caption, _side_by_side(sides)))
    return made


def save_gif(path: Path, frames: Sequence[Picture]) -> None:
    """Write frames as an animated GIF that starts over at its end."""
    images = [Image.fromarray(frame) for frame in frames]
    settings: dict[str, Any] = {"save_all": True, "duration": FRAME_MS, "loop": 0}
    write_whole(
        path,
        lambda file: images[0].save(file, "GIF", append_images=images[1:], **settings),
        mode="wb",
    )


def _reel(watched: Watched, task: int, every: int) -> list[Picture]:
    """The frames of the task's first episode."""
    length = int(watched.paths.first_lengths[task, 0])
    return [frames[task] for frames in watched.noted[: length + 1 : every]]


def _first_return(watched: Watched, task: int) -> float:
    length = int(watched.paths.first_lengths[task, 0])
    return float(watched.paths.rewards[task, 0, :length].sum())


def _labelled(frames: list[Picture], label: str) -> list[Picture]:
    images = [Image.fromarray(frame) for frame in frames]
    for image in images:
        ImageDraw.Draw(image).text((6, 4), label, fill="black")
    return [np.asarray(image) for image in images]


def _side_by_side(sides: list[list[Picture]]) -> list[Picture]:
    """What ends earlier keeps its last frame."""
    longest = max(map(len, sides))
    filled = [side + side[-1:] * (longest - len(side)) for side in sides]
    return [np.concatenate(frames, axis=1) for frames in zip(*filled, strict=True)]
