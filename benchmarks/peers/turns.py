"""Seconds of each contestant, all taking turns, and what can be said about their ratios."""

import gc
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from lightning_maml.run.freed_memory import keep_freed_memory, return_freed_memory
from peers.workloads import Run

AT_LEAST = 0.05
"""Seconds: whoever is faster than that goes on for so long, and the mean counts."""


def take_turns(
    runs: Mapping[str, Run], turns: int, seed: int, device: str, keeping: Collection[str] = ()
) -> dict[str, list[float]]:
    """Seconds of a meta-gradient of each, one number a turn.

    In a turn everyone runs once, in an order of its own that `seed` gives, so that a machine that
    gets slower or faster does so for all. A turn before the first is not counted. Those in
    `keeping` keep the memory that they free, as a run of this package does, the others return it;
    so that they have some to keep, all then run once more before they are timed.
    """
    order = random.Random(seed)
    gc.collect()
    gc.freeze()  # what there is by now need not be looked through each time
    calls = {name: math.ceil(AT_LEAST / timed(run, 1, device)) for name, run in runs.items()}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name in order.sample(list(runs), len(runs)):
            if keeping:
                keep_freed_memory() if name in keeping else return_freed_memory()
                timed(runs[name], 1, device)
            taken[name].append(timed(runs[name], max(calls[name], 1), device))
    if keeping:
        return_freed_memory()
    gc.unfreeze()
    return taken


def timed(run: Callable[[], object], calls: int, device: str) -> float:
    """Mean seconds of a call."""
    gc.collect()  # what the one before left must not be this one's to tidy up
    _wait(device)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    _wait(device)
    return (time.perf_counter() - start) / calls


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95% interval of the median, whatever the distribution: from order statistics.

    From the k-th smallest to the k-th largest of n values, with the largest k for which n tosses of
    a coin show fewer than k heads with a probability of at most 2.5%. None: fewer than 6 values.

    >>> median_interval([5, 1, 2, 4, 3, 7, 6, 9, 8])
    (2, 8)
    """
    n, k, fewer = len(values), 0, 1
    while fewer <= 0.025 * 2**n:
        k += 1
        fewer += math.comb(n, k)
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else None
