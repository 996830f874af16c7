"""Who takes part."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from peers.naive import naive
from peers.ours import variants
from peers.with_higher import higher_loop
from peers.with_learn2learn import learn2learn_loop
from peers.with_torchopt import batched, task_by_task
from peers.workloads import Make, Problem, Run, Workload

LIBRARIES = ("torchopt", "higher", "learn2learn")


def contestants(workload: Workload, learn2learn: Path | None = None) -> dict[str, Make]:
    """All, by name. What is not installed says so when it is made.

    The others' networks are of torch's layers, where ours has its own batch norm.
    """
    others = {
        "naive": naive,
        "torchopt-vmap": batched,
        "torchopt-MetaSGD": task_by_task,
        "higher": higher_loop,
        "learn2learn": learn2learn_loop(learn2learn),
    }
    return variants(workload) | {n: partial(_of_torch, make) for n, make in others.items()}


def _of_torch(make: Make, problem: Problem) -> Run:
    return make(problem.with_layers_of_torch())


def chosen(makes: dict[str, Make], patterns: Sequence[str]) -> dict[str, Make]:
    """Those that one of `patterns` (`fnmatch`) matches.

    Raises:
        ValueError: naming a pattern that matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in makes):
            raise ValueError(f"`--contestant` must match one of {list(makes)}, got {pattern!r}.")
    return {
        name: make
        for name, make in makes.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }
