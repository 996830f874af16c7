"""This package: each derivation, eager and compiled, with few and with many tasks at once."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch

from lightning_maml import MetaLearner
from lightning_maml.compiling import resolve_compile
from lightning_maml.joint_operators import resolve_derivation
from lightning_maml.meta_gradient import DERIVATIONS
from peers.workloads import Gradient, Make, Problem, Run, Workload, taken

Context = AbstractContextManager[object]
"""Of a precision; may be entered again and again."""


def ours(problem: Problem, **settings: Any) -> Run:
    """As a training step has it: the checked meta-loss and its `.backward()`."""
    workload = problem.workload
    learner = MetaLearner(
        problem.model,
        loss=workload.loss,
        inner_lr=workload.inner_lr,
        inner_steps=workload.inner_steps,
        adapts=workload.adapts,
        **settings,
    )

    def run() -> Gradient:
        learner.meta_loss(problem.episode).backward()
        return taken(learner.model)

    return run


def variants(workload: Workload) -> dict[str, Make]:
    """All that make sense for it, by name; compiled, which takes long, with fewer sizes."""
    return {
        name(derivation, at_once, compile): partial(
            ours, derivation=derivation, tasks_at_once=at_once, compile=compile
        )
        for derivation in DERIVATIONS
        for compile in (False, True)
        for at_once in (fewer_sizes(workload) if compile else sizes(workload))
    }


def first_order(workload: Workload) -> dict[str, Make]:
    """Another gradient, so not for the contest; by name."""
    return {
        name("first-order", at_once, False): partial(ours, first_order=True, tasks_at_once=at_once)
        for at_once in sizes(workload)
    }


def precisions(workload: Workload, device: str) -> dict[str, Make]:
    """As configured, eager and compiled, in the Trainer's precisions that `device` has; by name."""
    contexts: dict[str, Context] = {
        "32-true": nullcontext(),
        "bf16-mixed": torch.autocast(device, torch.bfloat16),
    }
    if device == "cuda":
        contexts["32-true-tf32"] = _Tf32()
    return {
        precision + compile * "-compiled": partial(_within, context, compile)
        for compile in (False, True)
        for precision, context in contexts.items()
    }


def _within(context: Context, compile: bool, problem: Problem) -> Run:
    workload = problem.workload
    run = ours(
        problem,
        derivation=workload.derivation,
        tasks_at_once=workload.tasks_at_once,
        compile=compile,
    )

    def within() -> Gradient:
        with context:
            return run()

    return within


class _Tf32:
    """Products and convolutions with inputs of 10 bits; may be entered again and again."""

    def __enter__(self) -> None:
        self.set(True)

    def __exit__(self, *error: object) -> None:
        self.set(False)

    @staticmethod
    def set(allowed: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


def name(derivation: str, at_once: int, compile: bool) -> str:
    """Of a variant.

    >>> name("sweep", 4, True)
    'ours-sweep-4-compiled'
    """
    return f"ours-{derivation}-{at_once}" + compile * "-compiled"


def sizes(workload: Workload) -> list[int]:
    """Tasks at once: one, all, as configured, and the divisor halfway between one and all."""
    tasks = workload.tasks
    divisors = [number for number in range(1, tasks + 1) if tasks % number == 0]
    halfway = divisors[len(divisors) // 2]
    return sorted({1, halfway, *fewer_sizes(workload)})


def fewer_sizes(workload: Workload) -> list[int]:
    """All, and as configured."""
    return sorted({workload.tasks, workload.tasks_at_once or workload.tasks})


def configured(problem: Problem) -> str:
    """The variant that the config names."""
    workload, (x, y) = problem.workload, (part[0] for part in problem.episode[:2])
    at_once = workload.tasks_at_once or workload.tasks
    derivation = resolve_derivation(
        workload.derivation, at_once, lambda x, y: problem.loss(problem.model(x), y), x, y
    )
    return name(derivation, at_once, resolve_compile(workload.compile, problem.model, x))


def reference(workload: Workload) -> str:
    """The variant that all others are compared with: as configured, but never compiled."""
    derivation = "sweep" if workload.derivation == "auto" else workload.derivation
    return name(derivation, workload.tasks_at_once or workload.tasks, False)
