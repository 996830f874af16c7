"""Figure 1 against closed forms: for a line, losses are quadratic and each step is linear."""

from itertools import pairwise

import numpy as np
import pytest

from lightning_maml.paper.figure1 import INNER_LR, INNER_STEPS, LINES, POINTS, START, Paths, paths


@pytest.fixture(scope="module")
def found() -> Paths:
    return paths()


def curvatures() -> list[np.ndarray]:
    """Second derivative of each task's mean squared error by slope and intercept."""
    features = [np.stack([x, np.ones_like(x)], axis=1) for x in map(np.array, POINTS)]
    return [2 * f.T @ f / len(f) for f in features]


def test_the_meta_learned_weights_are_where_the_meta_gradient_vanishes(found) -> None:
    """Sum of M A M (theta - best) = 0 with M = (1 - alpha A)^steps."""
    left, right = np.zeros((2, 2)), np.zeros(2)
    for a, best in zip(curvatures(), LINES, strict=True):
        m = np.linalg.matrix_power(np.eye(2) - INNER_LR * a, INNER_STEPS)
        left, right = left + m @ a @ m, right + m @ a @ m @ best
    np.testing.assert_array_equal(found.meta[0], START)
    np.testing.assert_allclose(found.meta[-1], np.linalg.solve(left, right), atol=1e-6)


def test_each_inner_step_goes_toward_the_tasks_best_weights(found) -> None:
    for a, best, path in zip(curvatures(), LINES, found.adapted, strict=True):
        for before, after in pairwise(path):
            np.testing.assert_allclose(after, before - INNER_LR * a @ (before - best))


def test_without_adaptation_other_weights_are_best_and_adapt_worse(found) -> None:
    """What the figure is there to show."""
    after: dict[str, float] = {"meta": 0.0, "together": 0.0}
    slope = np.zeros(2)
    for a, best in zip(curvatures(), LINES, strict=True):
        slope += a @ (found.together - best)
        m = np.linalg.matrix_power(np.eye(2) - INNER_LR * a, INNER_STEPS)
        for name, start in (("meta", found.meta[-1]), ("together", found.together)):
            after[name] += float((m @ (start - best)) @ a @ (m @ (start - best)))
    np.testing.assert_allclose(slope, 0, atol=1e-9)
    assert after["meta"] < 0.8 * after["together"]
