"""MAML for reinforcement learning (Algorithm 3) as a LightningModule."""

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torchmetrics import SumMetric

from lightning_maml.argument_types import check_counts, check_shares, check_types
from lightning_maml.episode import Episode, TaskBatch
from lightning_maml.fingerprint import task_digests
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.rl.advantages import Samples, samples
from lightning_maml.rl.environment import Environment
from lightning_maml.rl.environment_checks import check_environment, check_tasks
from lightning_maml.rl.policy_checks import check_parts
from lightning_maml.rl.policy_engine import Curvature, PolicyEngine
from lightning_maml.rl.rollout import Look, sample
from lightning_maml.rl.trajectories import Trajectories, Watched
from lightning_maml.rl.trajectory_figure import PAPER_STEPS, figures, plain_tracks
from lightning_maml.rl.trpo import Trpo, check_trpo
from lightning_maml.rl.videos import Videos
from lightning_maml.run.callbacks import callbacks_for
from lightning_maml.run.figures import Picture
from lightning_maml.run.hyperparameters import by_command_line
from lightning_maml.run.progress import TaskRate
from lightning_maml.run.trainer_checks import check_policy_trainer
from lightning_maml.step_sizes import StepSizes
from lightning_maml.task_curve import EvalResult, TaskCurve, curve_values, summarize


class Acted(NamedTuple):
    """A rollout of all tasks, what the losses take of it, and the seconds of both."""

    paths: Trajectories
    samples: Samples
    sampling_s: float
    inner_s: float


class MetaPolicy(LightningModule):
    """Meta-learns a policy for a few policy-gradient steps, each on fresh rollouts (Alg. 3).

    Batches are `TaskBatch`es. The inner loop is REINFORCE with a linear baseline fitted to each
    task, the meta-optimizer TRPO (trpo.py). Training logs ``train/return`` after adaptation and
    ``train/return_before``, ``train/std`` (the policy's, before), ``train/kl``, ``train/accepted``,
    ``train/explained_variance``, ``train/broken`` (episodes that could not be simulated),
    ``train/samples_per_s`` and the seconds of each part. Validation and test log
    ``<stage>/return``, the mean over tasks after the last step, with ``_ci95`` and ``_step<k>`` as
    `MetaLearner`, and ``<stage>/broken``. Validation draws the curve and, where the environment has
    positions in the plane, trajectories in the first tasks before and after adaptation, for W&B and
    TensorBoard.

    Args:
        policy: a module that returns mean and log-std (policy.py).
        environment: what to act in (environment.py).
        inner_lr: alpha.
        later_inner_lr: alpha of all steps but the first; ``None`` = `inner_lr`. The paper halves it
            in evaluation.
        inner_steps: inner updates in training; 0 trains one policy for all tasks (Sec. 5.3's
            pretraining).
        eval_inner_steps: inner updates in evaluation.
        trajectories: episodes per task and rollout in training.
        eval_trajectories: the same in evaluation; ``None`` = `trajectories`.
        first_order: take the inner gradients as constants.
        adapts: `fnmatch` patterns on the policy's parameters: what the inner loop changes.
        discount: of later rewards.
        gae_lambda: of generalised advantage estimates; 1: return minus baseline.
        pooled: in training, one baseline and one normalisation for all tasks of a batch (of one
            process) together.
        max_kl: TRPO's limit.
        cg_iterations: TRPO's iterations of conjugate gradient.
        damping: TRPO's damping.
        curvature: "exact", or the paper's "finite_differences".
        common_noise: in evaluation, take the same random numbers for each number of steps.
        tasks_at_once: tasks batched at a time in the gradients.
        compile: `torch.compile` the curvature products.
        render: at each validation, write short videos of two tasks before and after adaptation
            (videos.py) to the run's folder, and log them to W&B. Needs EGL or OSMesa.

    Raises:
        ValueError: naming the argument that is out of range or does not fit.
    """

    metric_name, worst_metric = "return", -math.inf

    def __init__(
        self,
        policy: nn.Module,
        environment: Environment,
        inner_lr: float = 0.1,
        later_inner_lr: float | None = None,
        inner_steps: int = 1,
        eval_inner_steps: int = 3,
        trajectories: int = 20,
        eval_trajectories: int | None = None,
        first_order: bool = False,
        adapts: Sequence[str] = ("*",),
        discount: float = 0.99,
        gae_lambda: float = 1.0,
        pooled: bool = False,
        max_kl: float = 0.01,
        cg_iterations: int = 10,
        damping: float = 1e-5,
        curvature: Curvature = "exact",
        common_noise: bool = False,
        tasks_at_once: int = 5,
        compile: bool = False,
        render: bool = False,
    ) -> None:
        check_environment(environment)
        check_types(MetaPolicy.__init__, locals())
        super().__init__()
        self.save_hyperparameters(ignore=[] if by_command_line() else ["policy", "environment"])
        self.automatic_optimization = False
        check_counts(
            inner_steps=(inner_steps, 0),
            trajectories=(trajectories, 1),
            eval_trajectories=(eval_trajectories, 1),
            eval_inner_steps=(eval_inner_steps, 0),
            tasks_at_once=(tasks_at_once, 1),
        )
        check_shares(discount=discount, gae_lambda=gae_lambda)
        self.policy, self.environment = policy, environment
        check_parts(policy, environment, render)
        step_sizes = StepSizes([a for a in (inner_lr, later_inner_lr) if a is not None])
        self.inner_loop = InnerLoop(inner_steps, step_sizes, first_order)
        self.eval_inner_steps, self.trajectories = eval_inner_steps, trajectories
        self.eval_trajectories = trajectories if eval_trajectories is None else eval_trajectories
        self.discount, self.gae_lambda, self.pooled = discount, gae_lambda, pooled
        self.common_noise, self.render = common_noise, render
        check_trpo(max_kl, cg_iterations, damping)
        self._new_trpo = partial(Trpo, max_kl=max_kl, cg_iterations=cg_iterations, damping=damping)
        self.engine = PolicyEngine(policy, tuple(adapts), tasks_at_once, compile, curvature)
        self.curve, self.broken, self._rate = TaskCurve(), SumMetric(), TaskRate()
        self.watched: dict[str, float] = {}

    # -- what other code calls ------------------------------------------------------------------

    def evaluate(self, batch: TaskBatch, inner_steps: int | None = None) -> EvalResult:
        """Mean return of each task after 0 .. `inner_steps` steps, each on fresh rollouts.

        A task whose policy gives an action that is not finite has NaN from there on. The loss of
        the result is minus the return. Shapes: both ``[inner_steps + 1, tasks]``.
        """
        return self._evaluate(batch, inner_steps)[0]

    def watch(self, batch: TaskBatch, look: Look, inner_steps: int | None = None) -> list[Watched]:
        """Evaluation's rollouts before and after adaptation, with what `look` notes of each state.

        Without inner steps there is but one.
        """
        steps = self.eval_inner_steps if inner_steps is None else inner_steps
        noted: list[Any] = []
        watched = []
        acting = self._evaluation(batch, steps, lambda *at: noted.append(look(*at)))
        for acted in acting:
            watched.append(Watched(acted.paths, noted.copy()))
            noted.clear()
        return watched if len(watched) == 1 else [watched[0], watched[-1]]

    def pictures(self, batch: TaskBatch) -> list[Picture]:
        """Figures of the first tasks, where there is a way to draw them (trajectory_figure.py)."""
        return figures(self.environment, batch, self.watch)

    def tracks(self, batch: TaskBatch) -> dict[str, Any] | None:
        """Trajectories in the first tasks as plain data, for Figure 4 (trajectory_figure.py)."""
        steps = min(PAPER_STEPS, self.eval_inner_steps)
        return plain_tracks(self.environment, batch, partial(self.watch, inner_steps=steps), steps)

    # -- Lightning ------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """Refuse Trainer settings that cannot work here; add what every run has (run/)."""
        check_policy_trainer(self.trainer)
        videos = [Videos()] if self.render else []
        return [*callbacks_for(self.trainer), *videos]

    def configure_optimizers(self) -> Any:
        """TRPO over the policy's parameters."""
        return self._new_trpo(self.engine.parameters())

    def on_train_start(self) -> None:
        """Count tasks per second from here."""
        self._rate.restart()

    def training_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """One meta-update: act, adapt, act, and a TRPO step."""
        acted = list(self._act(batch, self.inner_steps, self.trajectories, self.pooled))
        finite = all(bool(torch.isfinite(one.paths.returns).all()) for one in acted)
        if not self.trainer.strategy.reduce_boolean_decision(finite):  # or the others would wait
            raise FloatingPointError(
                f"A policy gave actions that are not finite at meta-update {self.global_step + 1}; "
                "the weights are those before it. Try a smaller `inner_lr`, now "
                f"{self.inner_loop.step_sizes.fixed(0)}."
            )
        rollouts = [one.samples.episode for one in acted]
        start = time.perf_counter()
        problem = self.engine.problem(self.inner_loop, rollouts, self._mean_over_processes)
        optimizer = self.optimizers()
        optimizer.step(closure=lambda: problem)  # type: ignore[union-attr]
        self._rate.add(batch.tasks * self.trainer.world_size)
        self._log_training(acted, time.perf_counter() - start)

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """Adapt to each task and collect the returns."""
        self._collect(batch, torch.zeros(batch.tasks, dtype=torch.int64))

    def test_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """As in validation; the digests remember which tasks these were."""
        self._collect(batch, task_digests(batch))

    def on_validation_epoch_start(self) -> None:
        """Forget the tasks of the last validation."""
        self.curve.reset()
        self.broken.reset()
        self._rate.pause()

    def on_test_epoch_start(self) -> None:
        """Forget the tasks of the last test."""
        self.curve.reset()
        self.broken.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the returns."""
        self._log_curve("val")
        self._rate.go_on()

    def on_test_epoch_end(self) -> None:
        """Log the returns."""
        self._log_curve("test")

    # -- internals ------------------------------------------------------------------------------

    @property
    def inner_steps(self) -> int:
        """Inner updates in training."""
        return self.inner_loop.steps

    def _evaluation(
        self, batch: TaskBatch, inner_steps: int, look: Look | None = None
    ) -> Iterator[Acted]:
        return self._act(
            batch, inner_steps, self.eval_trajectories, pooled=False,
            common_noise=self.common_noise, look=look,
        )  # fmt: skip

    def _evaluate(
        self, batch: TaskBatch, inner_steps: int | None = None
    ) -> tuple[EvalResult, Tensor]:
        """The result, and how many episodes could not be simulated."""
        steps = self.eval_inner_steps if inner_steps is None else inner_steps
        paths = [acted.paths for acted in self._evaluation(batch, steps)]
        returns = torch.stack([each.returns for each in paths])
        broken = torch.stack([each.broken.sum() for each in paths]).sum()
        return EvalResult(-returns, returns), broken

    def _collect(self, batch: TaskBatch, digests: Tensor) -> None:
        result, broken = self._evaluate(batch)
        # Results are on the CPU, in 64 bits, which not every device has; but accelerators join
        # only what is on them.
        result = EvalResult(*(part.to(self.device, torch.float32) for part in result))
        self.curve.update(result, digests.to(self.device))
        self.broken.update(broken)

    def _act(
        self,
        batch: TaskBatch,
        inner_steps: int,
        trajectories: int,
        pooled: bool,
        common_noise: bool = False,
        look: Look | None = None,
    ) -> Iterator[Acted]:
        """Rollouts after 0 .. `inner_steps` updates, each update on the rollout before it.

        `look` is for the first and the last of them.
        """
        batch = TaskBatch(*(tensor.cpu() for tensor in batch))
        check_tasks(self.environment, batch.task.double().numpy())
        theta = self.engine.initial(batch.tasks)
        for step in range(inner_steps + 1):
            start = time.perf_counter()
            paths = sample(
                self.environment, self.engine.policies(theta), batch, trajectories,
                inner_step=0 if common_noise else step,
                look=look if step in (0, inner_steps) else None,
            )  # fmt: skip
            sampled = time.perf_counter()
            made = samples(paths, self.discount, self.gae_lambda, pooled)
            made = made._replace(episode=moved(made.episode, self.device))
            if step < inner_steps:
                theta = self.engine.update(self.inner_loop, theta, made.episode, step)
            yield Acted(paths, made, sampled - start, time.perf_counter() - sampled)

    def _mean_over_processes(self, vector: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(vector, reduce_op="mean")

    def _log_training(self, acted: Sequence[Acted], update_s: float) -> None:
        report = cast(Trpo, self.optimizers(use_pl_optimizer=False)).report
        assert report is not None
        first, steps = acted[0].paths, sum(one.paths.steps for one in acted)
        sampling_s = sum(one.sampling_s for one in acted)
        values = {
            "return_before": first.returns.mean(),
            "return": acted[-1].paths.returns.mean(),
            "std": first.outputs[first.valid].chunk(2, dim=-1)[1].exp().mean(),
            "explained_variance": acted[-1].samples.explained_variance.mean(),
            "broken": sum(one.paths.broken.sum() for one in acted),
            "samples_per_s": steps / sampling_s,
            "sampling_s": sampling_s,
            "inner_s": sum(one.inner_s for one in acted),
            "update_s": update_s,
        }
        local = torch.tensor([float(value) for value in values.values()], device=self.device)
        mean = self.trainer.strategy.reduce(local, reduce_op="mean").tolist()
        self.watched = dict(zip(values, mean, strict=True))
        for count in ("broken", "samples_per_s"):  # of all processes together
            self.watched[count] *= self.trainer.world_size
        self.watched |= {
            "loss": report.loss_after,
            "kl": report.kl,
            "tries": report.tries,
            "accepted": float(report.accepted),
            "tasks_per_s": self._rate.read(),
        }
        logged = {f"train/{key}": value for key, value in self.watched.items()}
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and self.global_step % every == 0:
            for logger in self.loggers:
                logger.log_metrics(logged, step=self.global_step)
        self.log_dict(logged, logger=False)

    def _log_curve(self, stage: str) -> None:
        result, _ = self.curve.collected()
        summary = summarize(result, self.worst_metric)
        values = curve_values(summary, stage, self.metric_name)
        values[f"{stage}/{self.metric_name}"] = summary.mean[-1]
        values[f"{stage}/broken"] = self.broken.compute()
        self.log_dict(values | {"step": float(self.global_step)})


def moved(episode: Episode, device: torch.device) -> Episode:
    """Samples on another device; support and query are the same."""
    x, y = episode.query_x.to(device), episode.query_y.to(device)
    return Episode(x, y, x, y)
