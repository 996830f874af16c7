"""MAML as a LightningModule: a thin shell with manual optimization around engine.py."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from lightning_maml.adapted import Adapted, Labels, Statistics, answer, fast_adapt
from lightning_maml.argument_types import check_counts, check_types
from lightning_maml.engine import Engine
from lightning_maml.episode import Episode, Question, check_episode
from lightning_maml.fingerprint import task_digests
from lightning_maml.inner_loop import InnerLoop, Params
from lightning_maml.inner_rules import InnerRule, rule_by_name
from lightning_maml.losses import (
    LOSSES,
    Loss,
    as_import_path,
    by_name,
    check_labels,
    is_classification,
    metric_for,
    worst_of,
)
from lightning_maml.meta_gradient import Derivation, MetaGradient
from lightning_maml.meta_update import (
    MetaUpdate,
    OptimizerFactory,
    SchedulerFactory,
    gather_again,
    gathered,
)
from lightning_maml.models.batch_norm import with_episode_statistics
from lightning_maml.not_finite import where_not_finite
from lightning_maml.run.callbacks import callbacks_for
from lightning_maml.run.hyperparameters import not_plain
from lightning_maml.run.progress import TaskRate
from lightning_maml.run.trainer_checks import check_outputs
from lightning_maml.start import makes_tensors
from lightning_maml.step_sizes import Learned, Schedule, StepSizes, as_floats, evaluation_sizes
from lightning_maml.task_curve import EvalResult, TaskCurve, curve_values, summarize
from lightning_maml.tasks_at_once import TasksAtOnce
from lightning_maml.weights import weights_file


class MetaLearner(LightningModule):
    """Meta-learns the initial weights of any module for a few gradient steps (Alg. 1 and 2).

    Batches are `Episode`s. `trainer.global_step` counts meta-updates and is the step of all logs.
    Training logs, every `log_every_n_steps` of them and for the last batch of each, ``train/loss``
    and ``train/<metric>`` of the query examples after adaptation, both before it with
    ``_before``, ``train/support_loss_before``, ``train/meta_grad_norm``, ``train/meta_lr`` and
    ``train/tasks_per_s``. Validation and test log ``<stage>/<metric>``, the mean over tasks after
    the last inner step (what checkpoints should monitor; not finite if a task diverged),
    ``<stage>/<metric>_ci95``, ``<stage>/<metric>_step<k>`` and ``<stage>/diverged``.

    Args:
        model: any module that returns one tensor. Stock batch norm is converted, in a copy, to the
            episode's own statistics (models/batch_norm.py); layers frozen by now keep their running
            ones. Frozen parameters stay as they are.
        loss: ``(output, target) -> scalar`` of one task: a function, its import path, or one of
            "mse", "cross_entropy", "cross_entropy_n_way" (losses.py).
        metric: likewise, or "accuracy"; ``None``: accuracy for the known losses of class numbers,
            the loss itself for others. Of a function of your own less counts as better, unless it
            has an attribute `higher_is_better` that is true.
        inner_lr: alpha, or one for each inner step (past the end the last one); acts on `loss` as
            it is, so mind its reduction.
        inner_steps: inner updates in training.
        eval_inner_steps: inner updates in evaluation; ``None`` = `inner_steps`.
        eval_inner_lr: alpha in evaluation, unless it is learned; ``None`` = `inner_lr`.
        first_order: take the inner gradients as constants.
        adapts: `fnmatch` patterns on ``model.named_parameters()``: what the inner loop changes.
        learn_inner_lr: learn the step sizes as well, see step_sizes.py; ``None`` = fixed.
        inner_rule: the inner update: "sgd", "momentum", "adam", or a rule of inner_rules.py (in a
            config ``class_path: lightning_maml.inner_rules.Momentum`` and its ``init_args``).
        step_weights: multi-step loss: weight of the query loss after each inner step.
        meta_lr: beta of the default optimizer, Adam; ``None`` = 0.001.
        optimizer: makes another optimizer from the parameters, instead of `meta_lr`.
        scheduler: makes a scheduler from the optimizer; stepped once per meta-update
            (ReduceLROnPlateau: once per validation, with the monitored metric).
        clip_meta_grad_value: clip each element of the meta-gradient to +- this.
        clip_meta_grad_norm: clip the norm of the meta-gradient to this.
        accumulate_batches: batches averaged into one meta-update.
        tasks_at_once: tasks batched by `vmap` at a time; ``None`` = all, 1 = no `vmap`, ``"auto"``
            = as many as fit the cache or the device, see tasks_at_once.py.
        derivation: "sweep", "unrolled", "joint" or "auto", see meta_gradient.py.
        compile: `torch.compile` the meta-gradient; "auto" where a compiler works.

    Raises:
        ValueError: naming the argument that is out of range or does not fit.
    """

    _gathered: dict[str, Any] | None = None
    _outputs: int | None = None

    def __init__(
        self,
        model: nn.Module,
        loss: str | Loss | None = None,
        metric: str | Loss | None = None,
        inner_lr: Schedule = 0.01,
        inner_steps: int = 1,
        eval_inner_steps: int | None = None,
        first_order: bool = False,
        adapts: Sequence[str] = ("*",),
        learn_inner_lr: Learned | None = None,
        inner_rule: str | InnerRule = "sgd",
        step_weights: Sequence[float] | None = None,
        meta_lr: float | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        clip_meta_grad_value: float | None = None,
        clip_meta_grad_norm: float | None = None,
        accumulate_batches: int = 1,
        tasks_at_once: TasksAtOnce = None,
        derivation: Derivation = "sweep",
        compile: bool | Literal["auto"] = False,
        eval_inner_lr: Schedule | None = None,
    ) -> None:
        check_types(MetaLearner.__init__, locals())
        super().__init__()
        loss, metric, inner_lr = as_import_path(loss), as_import_path(metric), as_floats(inner_lr)
        eval_inner_lr = as_floats(eval_inner_lr)
        rule, inner_rule = rule_by_name(inner_rule), str(inner_rule)  # plain: see rule_by_name
        self.save_hyperparameters(ignore=not_plain(locals()))
        self.automatic_optimization = False
        self.model = self._with_batch_norm(model)
        self.loss = by_name(loss, LOSSES, "loss")
        self.metric_name, self.metric = metric_for(self.loss, metric)
        sizes = StepSizes(inner_lr, learn_inner_lr)
        self.inner_loop = InnerLoop(inner_steps, sizes, first_order, rule, step_weights)
        self.eval_inner_steps = inner_steps if eval_inner_steps is None else eval_inner_steps
        check_counts(eval_inner_steps=(eval_inner_steps, 0))
        self.eval_step_sizes = evaluation_sizes(eval_inner_lr, learn_inner_lr)
        self.engine = Engine(self.model, self.loss, adapts, tasks_at_once, derivation, compile)
        initial = sizes.initial(self.engine.tensors().stepped, inner_steps)
        self.inner_lrs = nn.ParameterDict({n.replace(".", "/"): a for n, a in initial.items()})
        self.meta_update = MetaUpdate(
            meta_lr, optimizer, scheduler, clip_meta_grad_value, clip_meta_grad_norm,
            accumulate_batches,
        )  # fmt: skip
        self._batches_since_update = 0
        self.curve, self._rate = TaskCurve(), TaskRate()
        self.watched: dict[str, float] = {}

    @classmethod
    def from_pretrained(cls, name: str) -> Self:
        """A learner with meta-trained weights that come with the package (weights/<name>.md).

        Raises:
            ValueError: naming the weights there are.
        """
        return cls.load_from_checkpoint(weights_file(name), map_location="cpu", weights_only=True)

    def meta_loss(self, episode: Episode) -> Tensor:
        """Meta-loss of a batch of tasks (Eq. 1, mean over tasks), a scalar.

        `.backward()` adds the meta-gradient to `.grad` of the module's parameters. Under
        `torch.no_grad` or `torch.inference_mode` it is the value alone.

        Raises:
            ValueError: if the episode's tensors do not fit together or to the loss.
        """
        return self._meta_loss(episode)[0]

    def adapt(self, support_x: Tensor, support_y: Tensor, inner_steps: int | None = None) -> Params:
        """All parameters of `model` by name after the inner loop on one task (theta').

        Runs in eval mode and leaves the module as it is; use the result with
        `torch.func.functional_call`.

        Shapes: ``support_x [examples, ...]``, ``support_y [examples, ...]``: no task axis.
        """
        episode = check_episode(
            Episode(support_x[None], support_y[None], support_x[None], support_y[None])
        )
        loop = self._loop(inner_steps)
        return self.engine.adapt(loop, support_x, episode.support_y[0], self._step_sizes())

    def fast_adapt(
        self,
        images: Tensor,
        labels: Labels,
        inner_steps: int | None = None,
        statistics: Statistics = "support",
    ) -> Adapted:
        """A module adapted to ``images [S, ...]`` of one task and their labels; see adapted.py."""
        loop, sizes = self._loop(inner_steps), self._step_sizes()
        return fast_adapt(self.engine, loop, sizes, images, labels, statistics)

    def evaluate(self, episode: Episode, inner_steps: int | None = None) -> EvalResult:
        """Query loss and metric of each task after 0 .. `inner_steps` inner steps; eval mode.

        `inner_steps` defaults to `eval_inner_steps` and may exceed that of training.

        Shapes: both ``[inner_steps + 1, tasks]``.
        """
        episode = self._checked(episode)
        curve = self.engine.curve(self._loop(inner_steps), episode, self._step_sizes())
        values = [self._per_task_metric(output, episode) for output in curve.output]
        return EvalResult(curve.loss, torch.stack(values))

    def outputs(self, episode: Episode, inner_steps: int | None = None) -> Tensor:
        """Outputs for the query examples after 0 .. `inner_steps` inner steps; eval mode.

        Shape: ``[inner_steps + 1, tasks, query examples, ...]``.
        """
        loop = self._loop(inner_steps)
        return self.engine.curve(loop, check_episode(episode), self._step_sizes()).output

    def configure_callbacks(self) -> list[Callback]:
        """Refuse Trainer settings that cannot work here; add what every run has (run/)."""
        return callbacks_for(self.trainer)

    def configure_optimizers(self) -> Any:
        """One optimizer over model and learned step sizes, and its scheduler."""
        return self.meta_update.configure([p for p in self.parameters() if p.requires_grad])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was gathered for a meta-update that is not complete."""
        if self._batches_since_update:
            checkpoint["gathered"] = gathered(self, self._batches_since_update)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Have it ready for `on_train_start`."""
        if self._trainer is not None and self._trainer.precision == "64-true":
            self.double()  # Lightning does so later, when it has rounded the weights to 32 bits
        self._gathered = checkpoint.get("gathered")

    def on_train_start(self) -> None:
        """Start the first meta-update from nothing, or from what the checkpoint had gathered."""
        self.zero_grad()
        resumed = self._gathered if self.trainer.ckpt_path is not None else None
        self._gathered, self._batches_since_update = None, 0
        if resumed is not None:
            self._batches_since_update = gather_again(self, resumed)
        self._rate.restart()

    def training_step(self, episode: Episode, batch_idx: int) -> None:
        """One batch of tasks; every `accumulate_batches` of them, one meta-update."""
        updates = self._batches_since_update + 1 == self.meta_update.accumulate_batches
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logs = updates and every and (self.global_step + 1) % every == 0
        before = self.evaluate(episode, inner_steps=0) if logs else None
        loss, result = self._meta_loss(episode)
        self.manual_backward(self.meta_update.share(loss))
        self._rate.add(episode.tasks * self.trainer.world_size)
        self._batches_since_update += 1
        if updates:
            self._batches_since_update = 0
            norm = self._update(loss, episode)
            if before is not None:
                values = self._training_values(episode, before, result)
                self._log_training(values | {"meta_grad_norm": norm})

    def validation_step(self, episode: Episode, batch_idx: int) -> None:
        """Adapt to each task and collect the curves over inner steps."""
        result = self.evaluate(episode)
        nameless = torch.zeros_like(result.loss[0], dtype=torch.int64)  # on the results' device
        self.curve.update(result, nameless)

    def test_step(self, episode: Episode, batch_idx: int) -> None:
        """As in validation; the digests remember which tasks these were."""
        self.curve.update(self.evaluate(episode), task_digests(episode))

    def predict_step(self, batch: Episode | Question, batch_idx: int) -> Tensor:
        """Outputs for the query examples after the inner loop: ``[tasks, examples, ...]``.

        For a `Question`, the probabilities of its classes: ``[examples, classes]``.
        """
        return answer(self, batch) if isinstance(batch, Question) else self.outputs(batch)[-1]

    def on_validation_epoch_start(self) -> None:
        """Forget the tasks of the last validation."""
        self.curve.reset()
        self._rate.pause()

    def on_test_epoch_start(self) -> None:
        """Forget the tasks of the last test."""
        self.curve.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the curve over inner steps; step a scheduler that waits for the metric."""
        monitored = self._log_curve("val")
        self._rate.go_on()
        fitting = self.trainer.state.fn == "fit" and not self.trainer.sanity_checking
        if fitting and isinstance(scheduler := self.lr_schedulers(), ReduceLROnPlateau):
            scheduler.step(monitored)

    def on_test_epoch_end(self) -> None:
        """Log the curve over inner steps."""
        self._log_curve("test")

    @property
    def worst_metric(self) -> float:
        """What a metric that is not finite counts as in a median."""
        return worst_of(self.metric, self.loss)

    def _with_batch_norm(self, model: nn.Module) -> nn.Module:
        return with_episode_statistics(model)

    def _optimizer(self) -> LightningOptimizer:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    def _per_task_metric(self, output: Tensor, episode: Episode) -> Tensor:
        pairs = zip(output, episode.query_y, strict=True)
        return torch.stack([self.metric(*pair) for pair in pairs])

    def _checked(self, episode: Episode) -> Episode:
        episode = check_episode(episode)
        # Reading the labels of an accelerator would wait for it at every batch.
        on_host = episode.support_y.device.type == "cpu"
        if is_classification(self.loss) and (on_host or self._outputs is None):
            made_anew = makes_tensors(self.model)
            if self._outputs is None or made_anew:
                self._outputs = self.engine.output_size(episode)
                if not made_anew:
                    check_outputs(self._trainer, self._outputs)
            check_labels(episode.support_y, self._outputs, "support_y")
            check_labels(episode.query_y, self._outputs, "query_y")
        return episode

    def _step_sizes(self) -> dict[str, Tensor]:
        # The names of registered parameters must not contain dots.
        return {name.replace("/", "."): alpha for name, alpha in self.inner_lrs.items()}

    def _loop(self, inner_steps: int | None) -> InnerLoop:
        """The inner loop of evaluation."""
        steps = self.eval_inner_steps if inner_steps is None else inner_steps
        step_sizes = self.eval_step_sizes or self.inner_loop.step_sizes
        return replace(self.inner_loop, steps=steps, step_sizes=step_sizes, step_weights=None)

    def _meta_loss(self, episode: Episode) -> tuple[Tensor, MetaGradient]:
        episode = self._checked(episode)
        return self.engine.meta_loss(self.inner_loop, episode, self._step_sizes())

    def _update(self, loss: Tensor, episode: Episode) -> Tensor:
        """One meta-update; returns the norm of the meta-gradient."""
        optimizer = self._optimizer()
        norm = self.meta_update.clip([p for g in optimizer.param_groups for p in g["params"]])
        if not torch.isfinite(loss.detach() + norm):
            raise FloatingPointError(
                f"The meta-loss ({loss.item():.4g}) or its gradient (norm {norm.item():.4g}) is "
                f"not finite at meta-update {self.global_step + 1}; the weights are those before "
                f"it. {where_not_finite(episode, self, self._remedy())}"
            )
        optimizer.step()
        optimizer.zero_grad()
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, LRScheduler) and not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()
        return norm

    def _remedy(self) -> str:
        return (
            f"The inner loop may diverge: try a smaller `inner_lr`, now "
            f"{self.inner_loop.step_sizes.inner_lr}, or fewer `inner_steps`, now "
            f"{self.inner_loop.steps}."
        )

    def _training_values(
        self, episode: Episode, before: EvalResult, result: MetaGradient
    ) -> dict[str, Tensor]:
        name, report = self.metric_name, result.report
        return {
            "loss_before": before.loss.mean(),
            "loss": result.loss,
            f"{name}_before": before.metric.mean(),
            name: self._per_task_metric(report.query_output, episode).mean(),
            "support_loss_before": report.support_loss.mean(),
        }

    def _log_training(self, values: dict[str, Tensor]) -> None:
        together = torch.stack([*values.values()]).float()
        mean = self.trainer.strategy.reduce(together, reduce_op="mean")
        self.watched = dict(zip(values, mean.tolist(), strict=True))
        self.watched["meta_lr"] = float(self._optimizer().param_groups[0]["lr"])
        self.watched["tasks_per_s"] = self._rate.read()
        logged = {f"train/{key}": value for key, value in self.watched.items()}
        # Lightning would count batches, and log after a checkpoint of this update was written.
        for logger in self.loggers:
            logger.log_metrics(logged, step=self.global_step)
        self.log("train/loss", logged.pop("train/loss"), prog_bar=True, logger=False)
        self.log_dict(logged, logger=False)

    def _log_curve(self, stage: str) -> Tensor:
        """Log what was collected; returns the mean metric after the last inner step."""
        result, _ = self.curve.collected()
        summary = summarize(result, self.worst_metric)
        self.log(f"{stage}/{self.metric_name}", summary.mean[-1], prog_bar=True)
        values = curve_values(summary, stage, self.metric_name)
        self.log_dict(values | {"step": float(self.global_step)})
        return summary.mean[-1]
