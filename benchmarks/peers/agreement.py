"""Nobody is timed whose meta-gradient is not ours.

In float64 every contestant must agree with ours to `EXACT`. Rounding leaves about 1e-14 there,
also where batch norm over five images amplifies it.

In float32, which is what is timed, rounding shows: contestants take other paths through the same
numbers, and where an activation lies within rounding of a kink (ReLU, max-pooling), its derivative
jumps. How far that leads is a property of the workload and measured there: the error of ours, in
float32 against float64. Two correct gradients are about as far from each other as from the exact
one, so `MARGIN` times that is allowed. `KINKS` is allowed in any case, since a kink that ours did
not hit another may; leaving out the second derivatives changes these meta-gradients by 0.2 to 1.
Five inner steps can lead even further from a kink that one side met. So whoever differs gets
other problems, `PROBLEMS` in all: who is wrong differs in each.
"""

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from peers.workloads import Gradient, Make, Problem, Run

EXACT, MARGIN, KINKS, PROBLEMS = 1e-9, 10.0, 0.01, 3


@dataclass(frozen=True)
class Admitted:
    """A contestant that may be timed.

    Attributes:
        run: in float32, called once.
        error64: relative difference of its meta-gradient from ours, in float64.
        error32: likewise in float32, on the first problem on which they agree.
    """

    run: Run
    error64: float
    error32: float


def relative_error(found: Gradient, expected: Gradient) -> float:
    """Norm of the difference over the norm; infinite where parameters differ."""
    if found.keys() != expected.keys():
        return math.inf
    a, b = (torch.cat([g[name].double().flatten() for name in expected]) for g in (found, expected))
    return float((a - b).norm() / b.norm())


def check(name: str, error: float, tolerance: float, precision: str) -> None:
    """Refuse a contestant that differs.

    Raises:
        ValueError: naming it.
    """
    if not error <= tolerance:  # an error that is not a number is one, too
        raise ValueError(
            f"The meta-gradient of `{name}` is not ours in {precision}: relative difference "
            f"{error:.1e}, more than {tolerance:.1e}."
        )


def admit(
    makes: dict[str, Make],
    reference: Make,
    problem: Callable[[torch.dtype, int], Problem],
    tell: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, Admitted], dict[str, str]]:
    """Those that ran and agree with `reference`, and the reasons of those that did not run.

    `problem` gives the same one anew in the precision asked for: that of number 0, or another;
    `tell` hears of each contestant.

    Raises:
        ValueError: naming the first that ran and does not agree.
    """

    @cache
    def ours(number: int) -> tuple[Gradient, Gradient, float]:
        """In float64 and in float32, and how far from the latter another may be."""
        double, single = (reference(problem(t, number))() for t in (torch.float64, torch.float32))
        return double, single, max(MARGIN * relative_error(single, double), KINKS)

    exact, *_ = ours(0)  # a failure of ours is nobody else's
    admitted: dict[str, Admitted] = {}
    absent: dict[str, str] = {}
    for name, make in makes.items():
        try:
            error64 = relative_error(make(problem(torch.float64, 0))(), exact)
            run = make(problem(torch.float32, 0))
            for number in range(PROBLEMS):
                gradient = (make(problem(torch.float32, number)) if number else run)()
                _, expected, tolerance = ours(number)
                if (error32 := relative_error(gradient, expected)) <= tolerance:
                    break
        except Exception as error:  # whatever a library that is old, or missing, does here
            absent[name] = reason(error)
            tell(f"{name}: {absent[name]}")
            continue
        tell(f"{name}: differs by {error64:.1e} in float64, {error32:.1e} in float32")
        check(name, error64, EXACT, "float64")
        check(name, error32, tolerance, "float32")
        admitted[name] = Admitted(run, error64, error32)
        gc.collect()  # some leave cycles, and in them graphs
    return admitted, absent


def reason(error: Exception) -> str:
    """In one line."""
    if isinstance(error, ModuleNotFoundError):
        return f"`{error.name}` is not installed"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
