"""Pretrain an ordinary classifier, then fine-tune it or look for neighbours (Table 1).

The baselines of Ravi and Larochelle (2017) on mini-ImageNet, which the paper's table repeats.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import product
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_maml.adapted import Adapted, Labels, Statistics, as_classes, check_statistics
from lightning_maml.argument_types import check_types
from lightning_maml.baselines.nearest_neighbour import Neighbours, class_similarities
from lightning_maml.baselines.pretrained import Pretrained
from lightning_maml.baselines.tuning import (
    mean_after_last_step,
    tune,
    validation_tasks,
)
from lightning_maml.engine import Engine
from lightning_maml.episode import Episode
from lightning_maml.functional_model import eval_mode
from lightning_maml.inner_loop import Params
from lightning_maml.losses import Loss
from lightning_maml.meta_update import OptimizerFactory, SchedulerFactory
from lightning_maml.models.support_statistics import fix_statistics
from lightning_maml.step_sizes import StepSizes
from lightning_maml.task_curve import EvalResult
from lightning_maml.tasks_at_once import TasksAtOnce

ClassifyBy = Literal["fine_tuning", "nearest_neighbour"]
# The grids of Ravi and Larochelle's code.
LRS = (0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-5)
DECAYS = (1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 0.0)
HEAD_SEED = 0


class PretrainedClassifier(Pretrained):
    """One network trained to tell all training classes apart; tasks are left to evaluation.

    Training batches hold images of all classes (`class_batch_size` of ``ImageFolder`` and
    ``MiniImagenet``). There are two ways to solve a task, which a test of one checkpoint may choose
    from:

    - "fine_tuning": a fresh last layer, the same for all tasks, and gradient descent on the whole
      network, step t with the step size lr / (1 + decay t). Before `test` and `predict`, lr and
      decay are chosen on the validation tasks, see `Pretrained`; the result file has the pairs.
    - "nearest_neighbour": the class of the support image whose features (the input of the last
      layer) have the highest cosine similarity. Nothing is adapted; what is reported as loss is
      that of the similarities.

    Batch norm is transductive here as everywhere (models/batch_norm.py).

    Args:
        model: a network with an output for each training class.
        n_way: classes of a task.
        classify_by: how tasks are solved.
        head: name of the last layer, an ``nn.Linear``.
        loss: the loss, see `MetaLearner`; so for all arguments that are not listed here.
        metric: the metric.
        inner_lr: step size in validation, without decay.
        eval_inner_steps: steps of fine-tuning (Ravi and Larochelle's 15).
        adapts: what fine-tuning changes.
        fine_tuning_lrs: the grid of lr.
        fine_tuning_decays: the grid of decay.
        meta_lr: step size of the default optimizer.
        optimizer: another one.
        scheduler: its scheduler.
        tasks_at_once: tasks batched at a time.
        compile: `torch.compile` the gradient.

    Raises:
        ValueError: naming the argument that is out of range or does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        n_way: int = 5,
        classify_by: ClassifyBy = "fine_tuning",
        head: str = "head",
        loss: str | Loss | None = "cross_entropy",
        metric: str | Loss | None = "accuracy",
        inner_lr: float = 0.01,
        eval_inner_steps: int = 15,
        adapts: Sequence[str] = ("*",),
        fine_tuning_lrs: Sequence[float] = LRS,
        fine_tuning_decays: Sequence[float] = DECAYS,
        meta_lr: float | None = None,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        tasks_at_once: TasksAtOnce = None,
        compile: bool | Literal["auto"] = False,
    ) -> None:
        check_types(PretrainedClassifier.__init__, locals())
        super().__init__(
            model, loss, metric, inner_lr, eval_inner_steps, adapts, fine_tuning_lrs, meta_lr,
            optimizer, scheduler, tasks_at_once=tasks_at_once, compile=compile,
        )  # fmt: skip
        if classify_by not in get_args(ClassifyBy):
            raise ValueError(
                f"`classify_by` must be one of {list(get_args(ClassifyBy))}, got {classify_by!r}."
            )
        if n_way < 2:
            raise ValueError(f"`n_way` must be at least 2, got {n_way}.")
        self.fine_tuning_decays = _check_decays(fine_tuning_decays)
        self.n_way, self.classify_by, self.head = n_way, classify_by, head
        _linear(self.model, head)
        self._engine_of_training, self._trains = self.engine, False
        self._decay = 0.0

    # -- evaluation has a network of its own ------------------------------------------------------

    def evaluate(self, episode: Episode, inner_steps: int | None = None) -> EvalResult:
        """As `MetaLearner.evaluate`; nearest neighbours are a curve of one point."""
        if self.tunes or self._trains:
            with self._for_this_task():
                return super().evaluate(episode, inner_steps)
        output = self.outputs(episode)[0]
        pairs = zip(output, episode.query_y, strict=True)
        loss = torch.stack([self.loss(*pair) for pair in pairs])
        return EvalResult(loss[None], self._per_task_metric(output, episode)[None])

    def outputs(self, episode: Episode, inner_steps: int | None = None) -> Tensor:
        """As `MetaLearner.outputs`; of nearest neighbours, the similarities."""
        if self.tunes:
            with self._for_this_task():
                return super().outputs(episode, inner_steps)
        with self._for_this_task():
            episode = self._checked(episode)
        features = self._features()
        with torch.no_grad(), eval_mode(features):
            tasks = [
                class_similarities(features(sx), sy, features(qx), self.n_way)
                for sx, sy, qx, _ in zip(*episode, strict=True)
            ]
        return torch.stack(tasks)[None]

    def adapt(self, support_x: Tensor, support_y: Tensor, inner_steps: int | None = None) -> Params:
        """As `MetaLearner.adapt`, of the network with the fresh last layer.

        Raises:
            ValueError: if nearest neighbours are looked for, which adapt nothing.
        """
        if not self.tunes:
            raise ValueError(
                "`adapt` is for `classify_by` 'fine_tuning', got 'nearest_neighbour', which adapts "
                "nothing; use `fast_adapt` or `outputs`."
            )
        with self._for_this_task():
            return super().adapt(support_x, support_y, inner_steps)

    @torch.no_grad()
    def fast_adapt(
        self,
        images: Tensor,
        labels: Labels,
        inner_steps: int | None = None,
        statistics: Statistics = "support",
    ) -> Adapted:
        """As `MetaLearner.fast_adapt`; neighbours may be of any number of classes."""
        if self.tunes:
            with self._for_this_task():
                return super().fast_adapt(images, labels, inner_steps, statistics)
        check_statistics(statistics)
        targets, names = as_classes(images, labels)
        features = self._features().eval()
        if statistics == "support":
            fix_statistics(features, images)
        neighbours = Neighbours(features, images, targets.to(images.device), len(names))
        return Adapted(neighbours, names).eval()

    @property
    def tunes(self) -> bool:
        """Only fine-tuning does."""
        return self.classify_by == "fine_tuning"

    def training_step(self, episode: Episode, batch_idx: int) -> None:
        """A batch of all classes, told apart by the network's own last layer."""
        self._trains = True
        try:
            super().training_step(episode, batch_idx)
        finally:
            self._trains = False

    def on_train_start(self) -> None:
        """Train the network itself, whatever was evaluated before.

        Raises:
            ValueError: if the datamodule gives tasks to train on, whose class numbers change.
        """
        data = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "shots") and getattr(data, "class_batch_size", None) is None:
            raise ValueError(
                f"`class_batch_size` of {type(data).__name__} must be given: training takes "
                "batches of all classes, not tasks, in each of which a class has another number. "
                "ImageFolder and MiniImagenet have it."
            )
        super().on_train_start()
        self._back_to_training()

    def on_validation_epoch_start(self) -> None:
        """Have a fresh last layer."""
        super().on_validation_epoch_start()
        self._for_tasks()
        self._use_schedule((self._validation_step_sizes.fixed(0), 0.0))

    def on_validation_epoch_end(self) -> None:
        """Log; train on with the layer for all classes."""
        super().on_validation_epoch_end()
        self._back_to_training()

    def tune(self) -> None:
        """Choose step size and decay on the validation tasks, and use them."""
        self._for_tasks()
        if not self.tunes:
            return
        episodes = validation_tasks(self)

        def mean_of(schedule: tuple[float, float]) -> float:
            self._use_schedule(schedule)
            return mean_after_last_step(self.evaluate_last, episodes, self.device)

        grid = [*product(self.fine_tuning_lrs, self.fine_tuning_decays)]
        self.tuning = tune(grid, mean_of, self.higher_is_better)
        self._use_schedule(self.tuning.chosen)

    @contextmanager
    def _for_this_task(self) -> Iterator[None]:
        """Outside of an evaluation by the Trainer: as in validation, and for one call."""
        if self._trains or self.engine is not self._engine_of_training:
            yield
            return
        self._for_tasks()
        self._use_schedule((self._validation_step_sizes.fixed(0), 0.0))
        try:
            yield
        finally:
            self._back_to_training()

    def _back_to_training(self) -> None:
        self.engine, self._outputs = self._engine_of_training, None
        self._use(self._validation_step_sizes)

    def _for_tasks(self) -> None:
        """Evaluate with a copy of the network as it is now, its last layer fresh."""
        trained = _linear(self.model, self.head)
        with torch.random.fork_rng(devices=[]):
            # The same layer in each evaluation, on each process; accelerators are left alone.
            torch.default_generator.manual_seed(HEAD_SEED)
            fresh = nn.Linear(trained.in_features, self.n_way).to(trained.weight)
        model = _with_head(self.model, self.head, fresh)
        engine = self._engine_of_training
        self.engine = Engine(model, self.loss, engine.adapts, engine.tasks_at_once)
        self._outputs = None

    def _features(self) -> nn.Module:
        """A copy of the network without its last layer."""
        return _with_head(self.model, self.head, nn.Identity())

    def _use_schedule(self, schedule: tuple[float, float]) -> None:
        lr, self._decay = schedule
        self._use(StepSizes(lr, "per_tensor_and_step"))

    def _step_sizes(self) -> dict[str, Tensor]:
        """Step t has lr / (1 + decay t)."""
        if self.inner_loop.step_sizes.learned is None:
            return super()._step_sizes()
        adapted = self.engine.tensors().adapted
        like = next(iter(adapted.values()))
        steps = torch.arange(max(self.eval_inner_steps, 1)).to(like)
        sizes = self.inner_loop.step_sizes.fixed(0) / (1 + self._decay * steps)
        return dict.fromkeys(adapted, sizes)


def _linear(model: nn.Module, head: str) -> nn.Linear:
    """The last layer.

    Raises:
        ValueError: naming `head`, if it is no linear layer of the model.
    """
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    if head not in layers:
        raise ValueError(f"`head` must be one of the linear layers {list(layers)}, got {head!r}.")
    return layers[head]


def _with_head(model: nn.Module, head: str, layer: nn.Module) -> nn.Module:
    """A copy of `model` with `layer` in the place of the layer named `head`."""
    model = deepcopy(model)
    parent, _, name = head.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
    return model


def _check_decays(decays: Sequence[float]) -> tuple[float, ...]:
    grid = tuple(map(float, decays))
    if not grid or not all(0 <= decay < float("inf") for decay in grid):
        raise ValueError(
            f"`fine_tuning_decays` must be finite numbers >= 0, at least one, got {list(decays)!r}."
        )
    return grid
