"""Losses of the paper (Eq. 2 and 3) and the metrics reported for them.

The paper prints both losses as sums over examples; the authors' code uses a mean for
regression and, for classification, the sum divided by K. The inner step size alpha acts on
whatever the loss is, so the reduction is part of its name here, never implicit.
"""

import importlib
import inspect
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error: Eq. 2 with a mean for the sum, as in the authors' code.

    Shapes: ``[examples, ...]`` twice -> scalar.

    Raises:
        ValueError: if the shapes differ: torch would compare each number with each other.
    """
    if prediction.shape != target.shape:
        raise ValueError(
            "`prediction` and `target` must have the same shape, got "
            f"{list(prediction.shape)} and {list(target.shape)}."
        )
    return F.mse_loss(prediction, target)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the examples (Eq. 3 for N classes).

    Shapes: ``[examples, n_way]`` and ``[examples]`` -> scalar.
    """
    return F.cross_entropy(logits, labels)


def cross_entropy_n_way(logits: Tensor, labels: Tensor) -> Tensor:
    """N times the mean cross-entropy: over N * K examples, their sum divided by K.

    The authors' classification code scales the loss so, which is why the paper's alpha = 0.4
    at 5-way acts as 2.0 would on a mean.

    Shapes: ``[examples, n_way]`` and ``[examples]`` -> scalar.
    """
    return logits.shape[-1] * F.cross_entropy(logits, labels)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose largest logit is the label's; a non-finite prediction is wrong.

    Shapes: ``[examples, n_way, ...]`` and ``[examples, ...]`` -> scalar, float32 whatever the
    precision of the logits.
    """
    correct = (logits.argmax(dim=1) == labels) & torch.isfinite(logits).all(dim=1)
    return correct.float().mean()


LOSSES: dict[str, Loss] = {
    "mse": mse,
    "cross_entropy": cross_entropy,
    "cross_entropy_n_way": cross_entropy_n_way,
}
METRICS: dict[str, Loss] = {"mse": mse, "accuracy": accuracy}


def by_name(value: str | Loss | None, table: dict[str, Loss], argument: str) -> Loss:
    """A loss or metric: itself, one of `table` by name, or a function by its import path.

    Raises:
        ValueError: naming `argument`, for anything else.
    """
    if callable(value) and _takes_two(value):
        return value
    if isinstance(value, str) and value in table:
        return table[value]
    module, _, name = str(value).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError):
        found = None
    if not callable(found) or not _takes_two(found):
        raise ValueError(
            f"`{argument}` must be one of {list(table)}, the import path of a function, or a "
            f"function of (output, target), got {value!r}."
        )
    return found


def _takes_two(function: Callable[..., object]) -> bool:
    """Whether it can be called with an output and a target, as far as can be told."""
    if inspect.isclass(function):
        return False
    try:
        signature = inspect.signature(getattr(function, "forward", function))
    except ValueError:
        return True  # of a builtin it may not be known
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    return True


def as_import_path(value: str | Loss | None) -> str | Loss | None:
    """The import path that leads back to a function; other values (a lambda) as they are.

    >>> as_import_path(F.mse_loss)
    'torch.nn.functional.mse_loss'
    """
    path = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', None)}"
    try:
        return path if by_name(path, {}, "path") is value else value
    except ValueError:
        return value


def is_classification(loss: Loss) -> bool:
    """Whether `loss` is one of the known losses whose targets are class numbers."""
    known = (cross_entropy, cross_entropy_n_way, F.cross_entropy, F.nll_loss)
    return loss in known or isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss)


def metric_for(loss: Loss, metric: str | Loss | None) -> tuple[str, Loss]:
    """Name and function of the metric reported beside `loss`; see `MetaLearner`.

    >>> metric_for(F.cross_entropy, None)[0]
    'accuracy'
    """
    if metric is None and not is_classification(loss):
        return "loss", loss
    function = accuracy if metric is None else by_name(metric, METRICS, "metric")
    return str(getattr(function, "__name__", type(function).__name__)), function


def more_is_better(metric: Loss, loss: Loss) -> bool | None:
    """Whether more of `metric` is better; None for a function that does not say.

    Known of ours and of the loss; another function says it by an attribute `higher_is_better`.
    """
    known = {"accuracy": True, "mse": False}
    name = str(getattr(metric, "__name__", ""))
    if metric is loss or name in known:
        return known.get(name, False)
    says = getattr(metric, "higher_is_better", None)
    return None if says is None else bool(says)


def worst_of(metric: Loss, loss: Loss) -> float:
    """The worst value of `metric`: minus infinity where more is better, else infinity."""
    return -math.inf if more_is_better(metric, loss) else math.inf


def check_labels(labels: Tensor, n_way: int, argument: str) -> None:
    """Check class numbers of shape ``[tasks, examples, ...]`` against the model's outputs.

    Raises:
        ValueError: naming `argument`, if the labels are not integers or out of range.
    """
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"`{argument}` must hold integer class numbers for this loss, got {labels.dtype}."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_way:
        raise ValueError(
            f"`{argument}` must hold class numbers 0 .. {n_way - 1}, as the model has {n_way} "
            f"outputs, got {low} .. {high}."
        )
