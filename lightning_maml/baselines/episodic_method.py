"""Methods that solve a task without adapting weights, as a learner: one shell for all of them.

A method is a module that gets a task and returns the log-probabilities of its query examples'
classes. What surrounds it (evaluation, result file, logs, resuming) is that of `MetaLearner`.
"""

from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.adapted import Adapted, Labels, Statistics
from lightning_maml.argument_types import check_types
from lightning_maml.baselines.embedded_sets import class_count
from lightning_maml.baselines.own_settings import forget_settings_of_the_base
from lightning_maml.baselines.solved import solve
from lightning_maml.episode import Episode, check_episode
from lightning_maml.functional_model import eval_mode
from lightning_maml.inner_loop import Params
from lightning_maml.losses import check_labels
from lightning_maml.meta_learner import MetaLearner
from lightning_maml.meta_update import OptimizerFactory, SchedulerFactory
from lightning_maml.models.batch_norm import with_frozen_statistics
from lightning_maml.not_finite import first_not_finite
from lightning_maml.run.trainer_checks import check_outputs
from lightning_maml.task_curve import EvalResult


@runtime_checkable
class EpisodicMethod(Protocol):
    """What a method must have beside being an `nn.Module`.

    One that has an attribute `n_way` solves tasks of so many classes at the most.
    """

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Log-probabilities: ``[T, S, ...]``, ``[T, S]``, ``[T, Q, ...]`` -> ``[T, Q, N]``.

        T tasks of N classes; the result for a task depends on that task alone in eval mode. All of
        them are finite: a probability of exactly 0 counts as a failure, as for all learners.
        """

    def training_loss(self, episode: Episode) -> Tensor:
        """What training descends: a scalar, mean over tasks."""


class EpisodicLearner(MetaLearner):
    """Trains a method on tasks; solves a task in one go, so that its curve is of one point.

    Logs and results are those of `MetaLearner`. The training metric is that of the batch at hand
    before the update, in eval mode. Unlike there, stock batch norm stays as it is: training
    normalises by the batch, all tasks of it together, and evaluation by running statistics. Layers
    of it that are frozen by now keep theirs, in a copy of the model.

    Args:
        model: the method, an `nn.Module` that is an `EpisodicMethod`.
        meta_lr: step size of the default optimizer, see `MetaLearner`; so for the others.
        optimizer: another one.
        scheduler: its scheduler.
        clip_meta_grad_value: clip each element of the gradient.
        clip_meta_grad_norm: clip its norm.
        accumulate_batches: batches averaged into one update.

    Raises:
        ValueError: naming the argument that is out of range or does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        meta_lr: float | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        clip_meta_grad_value: float | None = None,
        clip_meta_grad_norm: float | None = None,
        accumulate_batches: int = 1,
    ) -> None:
        check_types(EpisodicLearner.__init__, locals())
        _check_method(model)
        super().__init__(
            model, "cross_entropy", "accuracy", inner_steps=0, meta_lr=meta_lr,
            optimizer=optimizer, scheduler=scheduler, clip_meta_grad_value=clip_meta_grad_value,
            clip_meta_grad_norm=clip_meta_grad_norm, accumulate_batches=accumulate_batches,
        )  # fmt: skip
        forget_settings_of_the_base(self)

    def adapt(self, support_x: Tensor, support_y: Tensor, inner_steps: int | None = None) -> Params:
        """There is no inner loop of the learner's.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "`adapt` is for learners with an inner loop, got a method without, "
            f"{type(self.model).__name__}; use `fast_adapt` or `outputs`."
        )

    def fast_adapt(
        self,
        images: Tensor,
        labels: Labels,
        inner_steps: int | None = None,
        statistics: Statistics = "support",
    ) -> Adapted:
        """A module that answers for the classes of ``images [S, ...]`` of one task; see solved.py.

        Raises:
            ValueError: naming the argument that does not fit the method.
        """
        _check_steps(inner_steps)
        return solve(self.model, images, labels, statistics)

    def outputs(self, episode: Episode, inner_steps: int | None = None) -> Tensor:
        """Log-probabilities of the query examples' classes, ``[1, T, Q, N]``; eval mode.

        Raises:
            ValueError: if the episode's tensors do not fit together, or `inner_steps` is not 0.
        """
        _check_steps(inner_steps)
        episode = self._checked(episode)
        with torch.no_grad(), eval_mode(self.model):
            output: Tensor = self.model(*episode[:3])
        return output[None]

    def evaluate(self, episode: Episode, inner_steps: int | None = None) -> EvalResult:
        """Query loss and metric of each task, ``[1, T]`` each; eval mode."""
        output = self.outputs(episode, inner_steps)[0]
        episode = check_episode(episode)
        pairs = zip(output, episode.query_y, strict=True)
        loss = torch.stack([self.loss(*pair) for pair in pairs])
        return EvalResult(loss[None], self._per_task_metric(output, episode)[None])

    def _with_batch_norm(self, model: nn.Module) -> nn.Module:
        return with_frozen_statistics(model)

    def _checked(self, episode: Episode) -> Episode:
        episode = check_episode(episode)
        labels = episode.support_y
        if self._outputs is None and isinstance(most := getattr(self.model, "n_way", None), int):
            check_outputs(self._trainer, most)
        # As in `MetaLearner`: of an accelerator, the first batch only.
        if labels.device.type == "cpu" or self._outputs is None:
            self._outputs = class_count(labels)
            check_labels(labels, self._outputs, "support_y")
            check_labels(episode.query_y, self._outputs, "query_y")
            if not F.one_hot(labels, self._outputs).any(dim=1).all():
                raise ValueError(
                    f"`support_y` must hold each of the classes 0 .. {self._outputs - 1} in every "
                    "task, got a task without one of them."
                )
        return episode

    def _meta_loss(self, episode: Episode) -> tuple[Tensor, Any]:
        episode = self._checked(episode)
        # The forward pass would already put it into the running statistics of batch norm.
        if (found := first_not_finite(episode._asdict())) is not None:
            raise FloatingPointError(
                f"The batch is not finite at meta-update {self.global_step + 1}; the weights are "
                f"those before it. It comes from {found}."
            )
        loss = cast(EpisodicMethod, self.model).training_loss(episode)
        return loss, loss.detach()

    def _training_values(
        self, episode: Episode, before: EvalResult, result: Any
    ) -> dict[str, Tensor]:
        return {"loss": result, self.metric_name: before.metric.mean()}

    def _remedy(self) -> str:
        return "Try a smaller `meta_lr`."


def _check_steps(inner_steps: int | None) -> None:
    if inner_steps:
        raise ValueError(f"`inner_steps` must be 0 for this method, got {inner_steps}.")


def _check_method(model: nn.Module) -> None:
    if not isinstance(model, EpisodicMethod):
        raise ValueError(
            "`model` must be a method with `training_loss`, such as those of "
            f"lightning_maml.baselines, got {type(model).__name__}."
        )
