"""Joins a module and a loss with the pure functions: MAML for plain PyTorch.

`maml_loss` is the one call that a training loop needs; `Engine` is what it and the
LightningModule share.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_maml.autograd_bridge import with_gradient
from lightning_maml.compiling import compiled, resolve_compile
from lightning_maml.episode import Episode, check_episode
from lightning_maml.functional_model import (
    ModuleTensors,
    call_without_trace,
    errors_explained,
    eval_mode,
    module_tensors,
    second_derivatives,
    task_loss,
)
from lightning_maml.inner_loop import InnerLoop, MetaParams, Params, adapt
from lightning_maml.joint_operators import resolve_derivation
from lightning_maml.losses import Loss
from lightning_maml.meta_gradient import (
    DERIVATIONS,
    Derivation,
    MetaGradient,
    chunks,
    mean_over_tasks,
    over_tasks,
    share_of_mean,
)
from lightning_maml.start import Start, classes_in, makes_tensors, per_chunk, started
from lightning_maml.step_sizes import Schedule, StepSizes
from lightning_maml.tasks_at_once import TasksAtOnce, check_tasks_at_once, resolve_tasks_at_once

_numbers = count()
NO_STEP_SIZES: Mapping[str, Tensor] = {}
COMPILED_SHAPES = 4
"""So many shapes of episodes "auto" compiles for; where sizes vary, there would be no end to it."""


class Curve(NamedTuple):
    """Query loss and output after 0, 1, ... inner steps.

    Shapes: ``loss [steps + 1, tasks]``, ``output [steps + 1, tasks, query examples, ...]``.
    """

    loss: Tensor
    output: Tensor


@dataclass(frozen=True, eq=False)
class Engine:
    """A module, its loss, and how tasks are run.

    Attributes:
        model: any module. Its trainable parameters are meta-learned; frozen ones and buffers are
            constants.
        loss: ``(output, target) -> scalar`` of one task.
        adapts: patterns (`fnmatch`) on parameter names: what the inner loop changes.
        tasks_at_once: tasks batched by `vmap` at a time; ``None`` = all, 1 = no `vmap`, ``"auto"``
            = as many as fit (tasks_at_once.py).
        derivation: ``"sweep"``, ``"unrolled"`` or ``"joint"``, see meta_gradient.py; ``"auto"``: of
            the first and the last what is right and fast (joint_operators.py).
        compile: run the meta-gradient through `torch.compile`; ``"auto"`` where it works.

    Raises:
        ValueError: naming the argument, for a pattern that matches no trainable parameter and
            for values out of range.
    """

    model: nn.Module
    loss: Loss
    adapts: Sequence[str] = ("*",)
    tasks_at_once: TasksAtOnce = None
    derivation: Derivation = "sweep"
    compile: bool | Literal["auto"] = False
    _programs: dict[Any, Callable[..., MetaGradient]] = field(
        init=False, default_factory=dict, repr=False
    )
    _sizes: dict[Any, int] = field(init=False, default_factory=dict, repr=False)
    _trainable: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_tasks_at_once(self.tasks_at_once)
        if self.derivation not in (*DERIVATIONS, "auto"):
            raise ValueError(
                f"`derivation` must be one of {[*DERIVATIONS, 'auto']}, got {self.derivation!r}."
            )
        if self.compile not in (True, False, "auto"):
            raise ValueError(f'`compile` must be true, false or "auto", got {self.compile!r}.')
        if isinstance(self.loss, nn.Module) and any(self.loss.parameters()):
            raise ValueError(
                f"`loss` must have no parameters, got {type(self.loss).__name__} with some: they "
                "would not be learned. Make them part of `model`."
            )
        tensors = self.tensors()
        object.__setattr__(self, "_trainable", frozenset({**tensors.adapted, **tensors.held}))

    def __getstate__(self) -> dict[str, Any]:
        # A copy must not run the programs of the original's module.
        return {**self.__dict__, "_programs": {}, "_sizes": {}}

    def tensors(self) -> ModuleTensors:
        """The module's tensors as they are now."""
        return module_tensors(self.model, self.adapts)

    def _evaluated_tensors(self) -> ModuleTensors:
        """The same for evaluation, where a module that was frozen after training still adapts."""
        return module_tensors(self.model, self.adapts, self._trainable)

    def output_size(self, episode: Episode) -> int:
        """Number of outputs: second axis of what the module makes of a task's examples."""
        if (n_way := self._n_way(episode.support_y)) is not None:
            return n_way
        x = episode.support_x[0]
        with torch.no_grad(), eval_mode(self.model):
            return int(call_without_trace(self.model, x).shape[1])

    def meta_gradient(
        self, loop: InnerLoop, episode: Episode, step_sizes: Mapping[str, Tensor] = NO_STEP_SIZES
    ) -> MetaGradient:
        """Meta-loss and meta-gradient of a batch of tasks (Eq. 1, mean over tasks)."""
        return self._meta_gradient(self.tensors(), loop, episode, step_sizes)

    def _meta_gradient(
        self,
        tensors: ModuleTensors,
        loop: InnerLoop,
        episode: Episode,
        step_sizes: Mapping[str, Tensor],
    ) -> MetaGradient:
        at_once = self._at_once(episode)
        n_way = self._n_way(episode.support_y)
        shapes = [tensor.shape for tensor in episode] if self.compile else []
        key = (loop, at_once, self.model.training, n_way, *shapes)
        if key not in self._programs:
            example = episode.support_x[0], episode.support_y[0]
            self._programs[key] = self._program(loop, at_once, *example, n_way)
        program = self._programs[key]
        with second_derivatives(self.model), errors_explained(at_once, self.derivation):
            meta = _detached(tensors, step_sizes)
            share = partial(program, tensors.frozen, tensors.buffers, meta, episode.tasks)
            return mean_over_tasks(share, episode, at_once)

    def meta_loss(
        self, loop: InnerLoop, episode: Episode, step_sizes: Mapping[str, Tensor] = NO_STEP_SIZES
    ) -> tuple[Tensor, MetaGradient]:
        """The meta-loss as a scalar whose `.backward()` hands on the meta-gradient, and all else.

        Under `torch.no_grad` and `torch.inference_mode` the scalar has no graph.
        """
        tensors = self.tensors()
        result = self._meta_gradient(tensors, loop, episode, step_sizes)
        if not torch.is_grad_enabled():
            return result.loss, result
        parts = (tensors.adapted, tensors.held, step_sizes)
        pairs = [
            (tensor, grads[name])
            for part, grads in zip(parts, result.grads, strict=True)
            for name, tensor in part.items()
        ]
        inputs, known = [tensor for tensor, _ in pairs], [grad for _, grad in pairs]
        return with_gradient(result.loss, inputs, known), result

    def curve(
        self,
        loop: InnerLoop,
        episode: Episode,
        step_sizes: Mapping[str, Tensor] = NO_STEP_SIZES,
        only_last: bool = False,
    ) -> Curve:
        """Query loss and output after 0 .. `loop.steps` inner steps, in eval mode.

        With `only_last` the curve has but its last point, and the others are not computed.
        """
        tensors, at_once = self._evaluated_tensors(), self._at_once(episode)
        loss = task_loss(self.model, self.loss, tensors.frozen, tensors.buffers)
        start = self._start(tensors, self._n_way(episode.support_y))

        def per_task(meta: MetaParams, task: Episode) -> tuple[Tensor, Tensor]:
            meta = start(meta, task)
            points = [
                loss(theta, meta.held, task.query_x, task.query_y)
                for step, theta in enumerate(adapt(loop, loss, meta, task))
                if step == loop.steps or not only_last
            ]
            losses, outputs = zip(*points, strict=True)
            return torch.stack(losses), torch.stack(outputs)

        each, meta = over_tasks(per_task, at_once), _detached(tensors, step_sizes)
        with (
            second_derivatives(self.model),
            eval_mode(self.model),
            errors_explained(at_once, self.derivation),
        ):
            parts = [each(meta, chunk) for chunk in chunks(episode, at_once)]
        losses, outputs = (torch.cat(part).transpose(0, 1) for part in zip(*parts, strict=True))
        return Curve(losses, outputs)

    def adapt(
        self,
        loop: InnerLoop,
        support_x: Tensor,
        support_y: Tensor,
        step_sizes: Mapping[str, Tensor] = NO_STEP_SIZES,
    ) -> Params:
        """All parameters of the module, by name, after the inner loop on one task; eval mode.

        With those that the task made.
        """
        tensors = self._evaluated_tensors()
        loss = task_loss(self.model, self.loss, tensors.frozen, tensors.buffers)
        start = self._start(tensors, self._n_way(support_y[None]))
        task = Episode(support_x, support_y, support_x, support_y)
        with second_derivatives(self.model), eval_mode(self.model):
            meta = start(_detached(tensors, step_sizes), task)
            *_, theta = adapt(loop, loss, meta, task)
        after = {**dict(self.model.named_parameters()), **meta.held, **theta}
        return {name: tensor.detach().clone() for name, tensor in after.items()}

    def _n_way(self, support_y: Tensor) -> int | None:
        """Number of classes for a module that needs to know; labels ``[tasks, examples]``."""
        return classes_in(support_y) if makes_tensors(self.model) else None

    def _start(self, tensors: ModuleTensors, n_way: int | None) -> Start:
        constants = tensors.frozen | tensors.buffers
        return started(self.model, list(tensors.made), constants, n_way)

    def _loss_at_start(
        self, tensors: ModuleTensors, n_way: int | None, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss = task_loss(self.model, self.loss, tensors.frozen, tensors.buffers)
        meta = self._start(tensors, n_way)(_detached(tensors, NO_STEP_SIZES), Episode(x, y, x, y))
        return loss(meta.adapted, meta.held, x, y)

    def _at_once(self, episode: Episode) -> int:
        if self.tasks_at_once != "auto":
            return resolve_tasks_at_once(self.tasks_at_once, self.model, episode)
        support = episode.support_x
        autocast = torch.get_autocast_dtype(support.device.type)
        key = (
            support.shape, episode.query_x.shape, support.dtype, support.device,
            autocast if torch.is_autocast_enabled(support.device.type) else None,
        )  # fmt: skip
        if key not in self._sizes:
            self._sizes[key] = resolve_tasks_at_once(self.tasks_at_once, self.model, episode)
        return self._sizes[key]

    def _program(
        self, loop: InnerLoop, at_once: int, x: Tensor, y: Tensor, n_way: int | None
    ) -> Callable[..., MetaGradient]:
        many = self.compile == "auto" and len(self._programs) >= COMPILED_SHAPES
        compiles = resolve_compile(False if many else self.compile, self.model, x)
        tensors = self.tensors()
        made = list(tensors.made)
        once = partial(self._loss_at_start, tensors, n_way)
        derivation = resolve_derivation(self.derivation, at_once, once, x, y)

        def program(
            frozen: Params, buffers: Params, meta: MetaParams, tasks: int, chunk: Episode
        ) -> MetaGradient:
            loss = task_loss(self.model, self.loss, frozen, buffers)
            start = None
            if n_way is not None:
                start = started(self.model, made, {**frozen, **buffers}, n_way)
            sums = per_chunk(derivation, loop, loss, start, at_once, not compiles)(meta, chunk)
            return share_of_mean(sums, tasks)

        if not compiles:
            return program
        # torch counts recompilations by code object: with its own, each program starts at zero.
        program.__code__ = program.__code__.replace(co_name=f"program_{next(_numbers)}")
        return compiled(program, x.device)


def _detached(tensors: ModuleTensors, step_sizes: Mapping[str, Tensor]) -> MetaParams:
    parts = (tensors.adapted, tensors.held, step_sizes)
    return MetaParams(*({n: p.detach() for n, p in part.items()} for part in parts))


def maml_loss(
    model: nn.Module,
    loss: Loss,
    episode: Episode,
    *,
    inner_lr: Schedule,
    inner_steps: int = 1,
    first_order: bool = False,
    adapts: Sequence[str] = ("*",),
    tasks_at_once: TasksAtOnce = None,
) -> Tensor:
    """The meta-loss of a batch of tasks (Eq. 1): one line of a plain PyTorch training loop.

    Mean over the tasks of the query loss after `inner_steps` gradient steps on the support set.
    `.backward()` adds its exact gradient to `.grad` of the model's parameters.

    Args:
        model: any module; see `Engine` for frozen parameters, buffers, and the other arguments.
            Stock batch norm must be converted: `lightning_maml.models.with_episode_statistics`.
        loss: ``(output, target) -> scalar`` of one task.
        episode: the tasks, see `Episode`.
        inner_lr: alpha, or one for each inner step.
        inner_steps: number of inner updates.
        first_order: take the inner gradients as constants (Sec. 5.2).
        adapts: patterns on parameter names: what the inner loop changes.
        tasks_at_once: tasks batched at a time.

    Raises:
        ValueError: naming the argument that is out of range, or a layer to be converted.

    >>> import torch
    >>> model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    >>> _ = torch.nn.init.constant_(model.weight, 2.0)
    >>> one = torch.ones(1, 1, 1, dtype=torch.float64)  # a task: x = 1, y = 0; then x = 2, y = 3
    >>> task = Episode(one, 0 * one, 2 * one, 3 * one)
    >>> loss = maml_loss(model, torch.nn.functional.mse_loss, task, inner_lr=0.25)
    >>> loss.backward()
    >>> loss.item(), model.weight.grad.item()
    (1.0, -2.0)
    """
    for name, module in model.named_modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            raise ValueError(
                f"`model` must not keep running statistics, got {name!r}, a "
                f"{type(module).__name__}; give `with_episode_statistics(model)`, a converted copy."
            )
    engine = Engine(model, loss, adapts, tasks_at_once)
    loop = InnerLoop(inner_steps, StepSizes(inner_lr), first_order)
    return engine.meta_loss(loop, check_episode(episode))[0]
