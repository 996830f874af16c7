"""The step size of fine-tuning, chosen on validation tasks (Sec. 5.1: "automatically tuned")."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from lightning.pytorch import LightningModule

from lightning_maml.episode import Episode
from lightning_maml.losses import Loss, more_is_better
from lightning_maml.task_curve import EvalResult, TaskCurve, summarize

log = logging.getLogger(__name__)

Candidate = TypeVar("Candidate", float, tuple[float, float])


@dataclass(frozen=True)
class Tuning(Generic[Candidate]):
    """What was tried, and what was chosen.

    Attributes:
        step_sizes: the grid; of step sizes that change with the steps, what they are made of.
        means: of each, the mean validation metric after the last inner step.
        chosen: the one with the best mean; of equals, the first.
    """

    step_sizes: tuple[Candidate, ...]
    means: tuple[float, ...]
    chosen: Candidate

    def facts(self) -> dict[str, Any]:
        """As the result file has it; means that are not finite become null there."""
        return {
            "fine_tuning_lrs": list(self.step_sizes),
            "val_means": list(self.means),
            "chosen": self.chosen,
        }


def check_step_sizes(step_sizes: Sequence[float]) -> tuple[float, ...]:
    """The grid as numbers.

    Raises:
        ValueError: naming `fine_tuning_lrs`, if it is empty or holds anything but finite numbers
            above 0.
    """
    grid = tuple(map(float, step_sizes))
    if not grid or not all(0 < lr < math.inf for lr in grid):
        raise ValueError(
            f"`fine_tuning_lrs` must be finite numbers > 0, at least one, got {list(step_sizes)!r}."
        )
    return grid


def tune(
    step_sizes: Sequence[Candidate], mean_of: Callable[[Candidate], float], higher_is_better: bool
) -> Tuning[Candidate]:
    """The best of a grid; `mean_of` a step size is what it is judged by.

    A mean that is not finite (a task diverged) is worse than any other.

    Raises:
        ValueError: naming `fine_tuning_lrs`, if no mean is finite.
    """
    means = tuple(mean_of(lr) for lr in step_sizes)
    sign = 1.0 if higher_is_better else -1.0
    scores = [sign * mean if math.isfinite(mean) else -math.inf for mean in means]
    best = max(scores)
    if best == -math.inf:
        raise ValueError(
            "`fine_tuning_lrs` must hold a step size at which no validation task diverges, got "
            f"{list(step_sizes)}, all of which do: try smaller ones."
        )
    chosen = step_sizes[scores.index(best)]
    if len(step_sizes) > 1 and chosen in (min(step_sizes), max(step_sizes)):
        log.info("The best step size, %s, is at the edge of `fine_tuning_lrs`.", chosen)
    return Tuning(tuple(step_sizes), means, chosen)


@torch.no_grad()
def mean_after_last_step(
    evaluate: Callable[[Episode], EvalResult], episodes: Iterable[Episode], device: torch.device
) -> float:
    """Mean metric after the last inner step, over the tasks of all processes."""
    curve = TaskCurve().to(device)
    for episode in episodes:
        result = evaluate(episode)
        curve.update(result, torch.zeros_like(result.loss[0], dtype=torch.int64))
    result, _ = curve.collected()
    return float(summarize(result).mean[-1])


def validation_tasks(module: LightningModule) -> list[Episode]:
    """The validation tasks of this process, on the module's device, whatever stage it is in.

    Raises:
        ValueError: if the Trainer has no datamodule, or one without validation tasks.
    """
    trainer = module.trainer
    data = getattr(trainer, "datamodule", None)
    if data is None:
        raise ValueError(
            "`datamodule` must be given to Trainer.test and predict: the step size of fine-tuning "
            "is tuned on its validation tasks. Got loaders alone."
        )
    data.setup("validate")
    convert = trainer.precision_plugin.convert_input
    episodes: list[Episode] = []
    for batch in data.val_dataloader():
        episode = trainer.strategy.batch_to_device(convert(batch), module.device)
        episodes.append(episode)
    if not episodes:
        raise ValueError("`val_tasks` must be at least 1 to tune the step size, got none.")
    return episodes


def higher_is_better(metric: Loss, loss: Loss) -> bool:
    """Whether more of `metric` is better (losses.py).

    Raises:
        ValueError: naming `metric`, for a function that does not say.
    """
    better = more_is_better(metric, loss)
    if better is None:
        raise ValueError(
            "`metric` must be the loss, one of ['accuracy', 'mse'], or have an attribute "
            f"`higher_is_better` (true or false) to tune a step size by it, got {metric!r}."
        )
    return better
