"""How far repetitions spread, as all benchmarks print it."""

import statistics
from collections.abc import Sequence


def quartiles(values: Sequence[float]) -> list[float]:
    """First, second and third; of one value three times that."""
    if len(values) == 1:
        return 3 * list(values)
    return statistics.quantiles(values, method="inclusive")
