"""Pretraining on all tasks, then fine-tuning with a tuned step size (Sec. 5.1; App. C.1)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from lightning_maml.argument_types import check_types
from lightning_maml.baselines.own_settings import forget_settings_of_the_base
from lightning_maml.baselines.tuning import (
    Tuning,
    check_step_sizes,
    higher_is_better,
    mean_after_last_step,
    tune,
    validation_tasks,
)
from lightning_maml.episode import Episode
from lightning_maml.losses import Loss
from lightning_maml.meta_learner import MetaLearner
from lightning_maml.meta_update import OptimizerFactory, SchedulerFactory
from lightning_maml.step_sizes import StepSizes
from lightning_maml.task_curve import EvalResult
from lightning_maml.tasks_at_once import TasksAtOnce

FINE_TUNING_LRS = (1e-5, 1e-4, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


class Pretrained(MetaLearner):
    """One network trained on the query examples of all tasks, without an inner loop.

    The meta-loss at theta itself, `inner_steps` 0; everything else is `MetaLearner`'s. Before
    `test` and `predict` the step size of fine-tuning is chosen: of `fine_tuning_lrs` the one whose
    mean metric over the *validation* tasks of the datamodule (with its `k_shot`) is the best after
    `eval_inner_steps` steps. The result file holds the grid, the means and the choice.

    With amplitude and phase in the input (``datamodules.Sinusoid(task_in_input=True)``) this is
    the paper's oracle.

    Args:
        model: any module, see `MetaLearner`; so for all arguments that are not listed here.
        loss: the loss.
        metric: the metric; one that is neither the loss, nor "mse" nor "accuracy" must have an
            attribute `higher_is_better`.
        inner_lr: step size in validation, which stays the same during a run.
        eval_inner_steps: steps of fine-tuning.
        adapts: what fine-tuning changes.
        fine_tuning_lrs: the grid.
        meta_lr: step size of the default optimizer.
        optimizer: another one.
        scheduler: its scheduler.
        clip_meta_grad_value: clip each element of the gradient.
        clip_meta_grad_norm: clip its norm.
        tasks_at_once: tasks batched at a time.
        compile: `torch.compile` the gradient.

    Raises:
        ValueError: naming the argument that is out of range or does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: str | Loss | None = None,
        metric: str | Loss | None = None,
        inner_lr: float = 0.01,
        eval_inner_steps: int = 10,
        adapts: Sequence[str] = ("*",),
        fine_tuning_lrs: Sequence[float] = FINE_TUNING_LRS,
        meta_lr: float | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        clip_meta_grad_value: float | None = None,
        clip_meta_grad_norm: float | None = None,
        tasks_at_once: TasksAtOnce = None,
        compile: bool | Literal["auto"] = False,
    ) -> None:
        check_types(Pretrained.__init__, locals())
        super().__init__(
            model, loss, metric, inner_lr, 0, eval_inner_steps, adapts=adapts, meta_lr=meta_lr,
            optimizer=optimizer, scheduler=scheduler, clip_meta_grad_value=clip_meta_grad_value,
            clip_meta_grad_norm=clip_meta_grad_norm, tasks_at_once=tasks_at_once, compile=compile,
        )  # fmt: skip
        forget_settings_of_the_base(self)
        self.fine_tuning_lrs = check_step_sizes(fine_tuning_lrs)
        self.higher_is_better = higher_is_better(self.metric, self.loss)
        self._validation_step_sizes = self.inner_loop.step_sizes
        self.tuning: Tuning[Any] | None = None

    @property
    def tunes(self) -> bool:
        """Whether it needs validation tasks before it can answer."""
        return True

    def on_validation_epoch_start(self) -> None:
        """Fine-tune with the fixed step size."""
        super().on_validation_epoch_start()
        self._use(self._validation_step_sizes)

    def on_test_epoch_start(self) -> None:
        """Tune the step size."""
        super().on_test_epoch_start()
        self.tune()

    def on_predict_epoch_start(self) -> None:
        """Tune the step size."""
        self.tune()

    def tune(self) -> None:
        """Choose the step size on the validation tasks of the Trainer's datamodule, and use it."""
        episodes = validation_tasks(self)

        def mean_of(step_size: float) -> float:
            self._use(StepSizes(step_size))
            return mean_after_last_step(self.evaluate_last, episodes, self.device)

        self.tuning = tune(self.fine_tuning_lrs, mean_of, self.higher_is_better)
        self._use(StepSizes(self.tuning.chosen))

    def evaluate_last(self, episode: Episode) -> EvalResult:
        """The last point alone of what `evaluate` gives: both ``[1, tasks]``."""
        episode = self._checked(episode)
        loop, sizes = self._loop(None), self._step_sizes()
        (loss,), (output,) = self.engine.curve(loop, episode, sizes, only_last=True)
        return EvalResult(loss[None], self._per_task_metric(output, episode)[None])

    def result_facts(self) -> dict[str, Any]:
        """What the result file says beside the curve."""
        return {} if self.tuning is None else {"tuning": self.tuning.facts()}

    def _use(self, step_sizes: StepSizes) -> None:
        self.inner_loop = replace(self.inner_loop, step_sizes=step_sizes)
