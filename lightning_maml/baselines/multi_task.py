"""Multi-task baselines (App. C.1): the average of networks trained on one task each."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lightning_maml.argument_types import check_types
from lightning_maml.baselines.many_networks import (
    Block,
    Pull,
    Recipe,
    Trained,
    block_of_steps,
    mean_with,
    random_starts,
    train_networks,
)
from lightning_maml.baselines.pretrained import FINE_TUNING_LRS, Pretrained
from lightning_maml.compiling import compiled, resolve_compile
from lightning_maml.episode import Episode
from lightning_maml.functional_model import task_loss
from lightning_maml.inner_loop import Params
from lightning_maml.losses import Loss
from lightning_maml.tasks_at_once import TasksAtOnce

Regularization = Literal["l2", "l2_to_mean"]


class MultiTaskAverage(Pretrained):
    """The average of many networks, each trained on a task of its own, then fine-tuned.

    A training step trains as many networks as the batch has tasks, all at once: each from random
    weights, on the support examples of its task, until its loss on the query examples is below
    `target_loss`. `model` holds the average of all so far. With `regularization: l2_to_mean` the
    networks are drawn to that average, as it was before the batch: with one task per batch it is
    the paper's. Fine-tuning is that of `Pretrained`.

    The result file holds the final loss of each network and the number of steps it took.

    Args:
        model: any module whose layers have `reset_parameters`.
        loss: the loss, see `MetaLearner`; so for `metric`, `adapts` and `tasks_at_once`.
        metric: the metric, see `Pretrained`.
        inner_lr: step size in validation.
        eval_inner_steps: steps of fine-tuning.
        adapts: what fine-tuning changes.
        fine_tuning_lrs: the grid for fine-tuning, see `Pretrained`.
        networks: how many; training stops when there are as many (the paper's 500).
        regularization: None, "l2" (to zero: weight decay) or "l2_to_mean" (to the average).
        strength: lambda, by which the squared distance is weighted.
        training_lr: step size of Adam, for each network.
        target_loss: a network is done once it is below (the paper's 0.02).
        max_training_steps: a network that is not done by then is an error.
        min_training_steps: no network is done before; time for a penalty to act.
        tasks_at_once: in evaluation.
        compile: `torch.compile` the training; "auto" where a compiler works.

    Raises:
        ValueError: naming the argument that is out of range or does not fit.
    """

    losses: Tensor
    steps: Tensor
    count: Tensor

    def __init__(
        self,
        model: nn.Module,
        loss: str | Loss | None = None,
        metric: str | Loss | None = None,
        inner_lr: float = 0.01,
        eval_inner_steps: int = 10,
        adapts: Sequence[str] = ("*",),
        fine_tuning_lrs: Sequence[float] = FINE_TUNING_LRS,
        networks: int = 500,
        regularization: Regularization | None = None,
        strength: float = 0.0,
        training_lr: float = 0.01,
        target_loss: float = 0.02,
        max_training_steps: int = 5000,
        min_training_steps: int = 0,
        tasks_at_once: TasksAtOnce = None,
        compile: bool | Literal["auto"] = False,
    ) -> None:
        check_types(MultiTaskAverage.__init__, locals())
        super().__init__(
            model, loss, metric, inner_lr, eval_inner_steps, adapts, fine_tuning_lrs,
            tasks_at_once=tasks_at_once, compile=compile,
        )  # fmt: skip
        if networks < 1:
            raise ValueError(f"`networks` must be at least 1, got {networks}.")
        _check_strength(regularization, strength)
        self.regularization, self.strength = regularization, strength
        self.recipe = Recipe(
            training_lr, target_loss, max_training_steps, min_steps=min_training_steps
        )
        random_starts(self.model, 1)  # refuses a model that cannot be started anew
        self.register_buffer("losses", torch.full((networks,), torch.nan))
        self.register_buffer("steps", torch.zeros(networks, dtype=torch.int64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self._blocks: dict[int, Block] = {}

    def on_train_start(self) -> None:
        """Refuse several processes."""
        super().on_train_start()
        if self.trainer.world_size > 1:
            raise ValueError(
                "`Trainer(devices)` must be 1 to train a MultiTaskAverage, whose networks come one "
                f"after another, got {self.trainer.world_size} processes. (Test runs on any.)"
            )

    def training_step(self, episode: Episode, batch_idx: int) -> None:
        """Train the networks of one batch of tasks and take them into the average.

        Raises:
            RuntimeError: naming the networks that did not get below the target.
        """
        count = int(self.count)
        left = len(self.losses) - count
        tasks = Episode(*(part[:left] for part in self._checked(episode)))
        if tasks.tasks:
            starts = random_starts(self.model, tasks.tasks)
            starts = {name: p.to(self.device) for name, p in starts.items()}
            trained = train_networks(
                self._block(tasks), self.recipe, starts, tasks, self._pull(starts, count)
            )
            _refuse_unreached(trained, count, self.recipe)
            self._take(trained, count)
        self._optimizer().step()  # without gradients it changes nothing, but the Trainer counts
        if tasks.tasks:
            self._log_networks(tasks, starts, trained)
        self.trainer.should_stop = int(self.count) == len(self.losses)

    def result_facts(self) -> dict[str, Any]:
        """What the result file says beside the curve."""
        count = int(self.count)
        networks = {
            "trained": count,
            "loss": self.losses[:count].tolist(),
            "steps": self.steps[:count].tolist(),
        }
        return super().result_facts() | {"networks": networks}

    def _pull(self, starts: Params, count: int) -> Pull:
        """None for the first networks where it is to the average, of which there is none yet."""
        mean = {name: p.detach() for name, p in self.model.named_parameters() if name in starts}
        zeros = {name: torch.zeros_like(p) for name, p in mean.items()}
        to_mean = self.regularization == "l2_to_mean"
        strength = 0.0 if to_mean and not count else self.strength
        like = next(iter(mean.values()))
        return Pull(like.new_tensor(strength), mean if to_mean else zeros)

    def _block(self, tasks: Episode) -> Block:
        if tasks.tasks not in self._blocks:
            tensors = self.engine.tensors()
            loss = task_loss(self.model, self.loss, tensors.frozen, tensors.buffers)
            block = block_of_steps(lambda theta, x, y: loss(theta, {}, x, y)[0], self.recipe)
            if resolve_compile(self.engine.compile, self.model, tasks.support_x[0]):
                block = compiled(block, tasks.support_x.device)
            self._blocks[tasks.tasks] = block
        return self._blocks[tasks.tasks]

    @torch.no_grad()
    def _take(self, trained: Trained, count: int) -> None:
        own = {name: p for name, p in self.model.named_parameters() if name in trained.theta}
        mean = mean_with(own, count, trained.theta)
        for name, parameter in own.items():
            parameter.copy_(mean[name])
        end = count + len(trained.loss)
        self.losses[count:end], self.steps[count:end] = trained.loss, trained.steps
        self.count.fill_(end)

    @torch.no_grad()
    def _log_networks(self, tasks: Episode, starts: Params, trained: Trained) -> None:
        def metric(theta: Params) -> float:
            def call(theta: Params, x: Tensor) -> Tensor:
                return functional_call(self.model, theta, (x,))

            outputs = vmap(call)(theta, tasks.query_x)
            return float(self._per_task_metric(outputs, tasks).mean())

        self._rate.add(tasks.tasks)
        name = self.metric_name
        self.watched = {
            "loss": float(trained.loss.mean()),
            f"{name}_before": metric(starts),
            name: metric(trained.theta),
            "training_steps": float(trained.steps.float().mean()),
            "networks": float(self.count),
            "tasks_per_s": self._rate.read(),
        }
        logged = {f"train/{key}": value for key, value in self.watched.items()}
        for logger in self.loggers:
            logger.log_metrics(logged, step=self.global_step)


def _check_strength(regularization: str | None, strength: float) -> None:
    if regularization is not None and regularization not in get_args(Regularization):
        raise ValueError(
            f"`regularization` must be one of {list(get_args(Regularization))} or None, "
            f"got {regularization!r}."
        )
    if not 0 <= strength < float("inf") or (strength > 0) != (regularization is not None):
        right = "0 without `regularization`" if regularization is None else "a finite number > 0"
        raise ValueError(f"`strength` must be {right}, got {strength}.")


def _refuse_unreached(trained: Trained, count: int, recipe: Recipe) -> None:
    failed = [count + i for i in (trained.steps == 0).nonzero().flatten().tolist()]
    if failed:
        named = ", ".join(f"{i} ({trained.loss[i - count]:.4g})" for i in failed[:5])
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise RuntimeError(
            f"`target_loss` must be reached by every network, but after {recipe.max_steps} steps "
            f"(`max_training_steps`) network {named}{more} had not got below {recipe.target}. Give "
            "them more steps or more support points, or a weaker `strength`."
        )
