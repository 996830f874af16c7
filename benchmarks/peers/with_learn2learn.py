"""learn2learn (Arnold et al., 2020; github.com/learnables/learn2learn), from its source.

As in its examples: task by task, a backward pass each.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from peers.workloads import Gradient, Make, Problem, Run, taken

PACKAGES = ("learn2learn", "learn2learn.algorithms")


def learn2learn_loop(source: Path | None) -> Make:
    """`clone_module` and `maml_update` of the package whose source lies there."""

    def make(problem: Problem) -> Run:
        clone, update = _functions(source)
        workload = problem.workload
        adapted = set(problem.adapted)

        def run() -> Gradient:
            for support_x, support_y, query_x, query_y in zip(*problem.episode, strict=True):
                learner = clone(problem.model)
                for _ in range(workload.inner_steps):
                    loss = problem.loss(learner(support_x), support_y)
                    # `MAML.adapt` does no more than this, but with all parameters or none.
                    names, parameters = zip(*learner.named_parameters(), strict=True)
                    moving = [p for n, p in zip(names, parameters, strict=True) if n in adapted]
                    grads = iter(torch.autograd.grad(loss, moving, create_graph=True))
                    steps = [next(grads) if name in adapted else None for name in names]
                    learner = update(learner, workload.inner_lr, steps)
                (problem.loss(learner(query_x), query_y) / workload.tasks).backward()
            return taken(problem.model)

        return run

    return make


def _functions(source: Path | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Both, without the rest of the package, which needs compiled files, gym and more.

    Raises:
        ImportError: if there is no source.
    """
    if source is None:
        raise ImportError("no source given (--learn2learn PATH)")
    if not (source / "learn2learn" / "algorithms" / "maml.py").is_file():
        raise ImportError(f"no learn2learn/algorithms/maml.py in {source}")
    for name in PACKAGES:
        package = ModuleType(name)
        package.__path__ = [str(source.joinpath(*name.split(".")))]
        sys.modules.setdefault(name, package)
    utils, maml = import_module("learn2learn.utils"), import_module("learn2learn.algorithms.maml")
    return utils.clone_module, maml.maml_update
