"""What bounds a meta-gradient: its arithmetic and memory traffic, at the machine's own rates.

Both are counted over the plain loop (naive.py), whose reverse-mode derivatives need about the least
arithmetic there is. The arithmetic is that of matrix products and convolutions. Traffic is what its
operators read and write, each by itself: who fuses operators moves less. The rates are those of a
large matrix product and of a large copy, in the run that the contestants are timed in.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from peers.naive import naive
from peers.turns import timed
from peers.workloads import Problem

SIZE, NUMBERS, CALLS = 2048, 1 << 26, 9
"""Rows of the square matrices; float32 numbers of the copy; calls of each, whose median counts."""


@dataclass(frozen=True)
class Bound:
    """Of a workload on a machine.

    Attributes:
        flop: floating-point operations of a meta-gradient, two for a multiplication and addition.
        bytes: that its operators read and write.
        flop_per_s: of the machine's matrix product.
        bytes_per_s: read and written by the machine's copy.
    """

    flop: int
    bytes: int
    flop_per_s: float
    bytes_per_s: float

    @property
    def seconds(self) -> dict[str, float]:
        """At those rates, of either."""
        return {
            "arithmetic": self.flop / self.flop_per_s,
            "traffic": self.bytes / self.bytes_per_s,
        }

    def as_dict(self) -> dict[str, Any]:
        """With its seconds."""
        return asdict(self) | {"seconds": self.seconds}

    def __str__(self) -> str:
        least = {name: f"{1e3 * seconds:.3g} ms" for name, seconds in self.seconds.items()}
        return (
            f"The plain loop multiplies and adds {self.flop / 1e9:.3g} GFLOP, "
            f"{least['arithmetic']} at this machine's matrix product "
            f"({self.flop_per_s / 1e9:.0f} GFLOP/s), and its operators move "
            f"{self.bytes / 1e9:.3g} GB, {least['traffic']} at its copy "
            f"({self.bytes_per_s / 1e9:.0f} GB/s)."
        )


def bound(problem: Problem, device: str) -> Bound:
    """Of the plain loop on this problem, with the rates as they are now."""
    run = naive(problem.with_layers_of_torch())
    with FlopCounterMode(display=False) as flops, Traffic() as traffic:
        run()
    return Bound(flops.get_total_flops(), traffic.bytes, *rates(device))


def rates(device: str) -> tuple[float, float]:
    """Operations per second of a matrix product, bytes per second of a copy, in float32."""
    a, b = torch.rand(2, SIZE, SIZE, device=device)
    source = torch.rand(NUMBERS, device=device)
    target = torch.empty_like(source)
    return (
        2 * SIZE**3 / _median(lambda: a @ b, device),
        2 * source.nbytes / _median(lambda: target.copy_(source), device),
    )


def _median(call: Callable[[], Tensor], device: str) -> float:
    timed(call, 2, device)
    return statistics.median(timed(call, 1, device) for _ in range(CALLS))


class Traffic(TorchDispatchMode):
    """Adds up the bytes of the tensors that operators read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = tree_leaves((args, kwargs, result))
            self.bytes += sum(leaf.nbytes for leaf in tensors if isinstance(leaf, Tensor))
        return result
