"""From a handful of labelled examples to an ordinary module that answers for new ones."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_maml.engine import Engine
from lightning_maml.episode import Episode, Question
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.losses import check_labels, is_classification, mse
from lightning_maml.models.support_statistics import fix_statistics

Labels = Tensor | Sequence[int] | Sequence[str]
Statistics = Literal["support", "transductive"]
SHOWN = 10  # so many classes in an error
AT_ONCE = 256  # images in a forward pass, where they are independent


class Adapted(nn.Module):
    """A model adapted to one task, in eval mode.

    Attributes:
        model: the adapted copy of the learner's network.
        class_names: what each output stands for; empty where the targets were no classes.
    """

    def __init__(self, model: nn.Module, class_names: Sequence[Any] = ()) -> None:
        super().__init__()
        self.model = model
        self.class_names = tuple(class_names)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (logits) of ``x [N, ...]``."""
        output: Tensor = self.model(x)
        return output

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Softmax of the outputs, ``[N, ...] -> [N, classes]``."""
        return self(x).softmax(dim=1)

    @torch.no_grad()
    def predict(self, x: Tensor) -> list[Any]:
        """The name of the likeliest class of each of ``x [N, ...]``.

        Raises:
            ValueError: if the targets were no classes.
        """
        if not self.class_names:
            raise ValueError("`labels` must have been classes, got other targets: call the module.")
        return [self.class_names[number] for number in self(x).argmax(dim=1).tolist()]


def fast_adapt(
    engine: Engine,
    loop: InnerLoop,
    step_sizes: Mapping[str, Tensor],
    images: Tensor,
    labels: Labels,
    statistics: Statistics = "support",
) -> Adapted:
    """The inner loop on one task (theta', Alg. 2, line 6), as a module; `engine` stays as it is.

    Args:
        engine: the network and its loss.
        loop: the inner loop.
        step_sizes: those learned.
        images: the support examples ``[S, ...]``, as the network takes them.
        labels: their classes ``[S]``, names or integers: output c is for class c in sorted order.
            Floats, and tensors with more axes, are targets as they are.
        statistics: of batch norm: "support", fixed (models/support_statistics.py), or
            "transductive", of each batch that the module is given.

    Raises:
        ValueError: naming the argument that does not fit the network, or the layer that has no
            fixed statistics.
        FloatingPointError: if the inner loop diverges.
    """
    check_statistics(statistics)
    targets, class_names = as_targets(labels)
    _check_examples(engine, images, targets, class_names)
    theta = engine.adapt(loop, images, targets.to(images.device), step_sizes)
    if not all(tensor.isfinite().all() for tensor in theta.values()):
        raise FloatingPointError(
            f"The inner loop diverges on these examples: weights are not finite after {loop.steps} "
            f"steps. Try fewer `inner_steps`, or a smaller `inner_lr`, now "
            f"{loop.step_sizes.inner_lr}."
        )
    model = deepcopy(engine.model).eval()
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in theta.items():
            if name in parameters:
                parameters[name].copy_(tensor)
            else:  # made from the task (start.py), so no parameter
                owner, _, last = name.rpartition(".")
                model.get_submodule(owner).register_buffer(last, tensor)
    if statistics == "support":
        fix_statistics(model, images)
    return Adapted(model, class_names).eval()


def _check_examples(
    engine: Engine, images: Tensor, targets: Tensor, class_names: Sequence[Any]
) -> None:
    _check_lengths(images, targets)
    if images.dtype == torch.uint8:
        _check_bytes(engine, images, targets)
    if class_names and (engine.loss in (mse, F.mse_loss) or isinstance(engine.loss, nn.MSELoss)):
        raise ValueError("`labels` must be float targets for a squared error, got classes.")
    if class_names:
        check_classes(class_names, outputs_for(engine, images, targets), "labels")
    elif is_classification(engine.loss):
        check_labels(targets, outputs_for(engine, images, targets), "labels")


def _check_lengths(images: Tensor, targets: Tensor) -> None:
    if len(images) != len(targets) or not len(images):
        raise ValueError(
            "`images` and `labels` must hold the same number of examples, at least one, got "
            f"{len(images)} and {len(targets)}."
        )


def check_statistics(statistics: Statistics) -> None:
    """Check the name.

    Raises:
        ValueError: naming `statistics`.
    """
    if statistics not in get_args(Statistics):
        raise ValueError(
            f"`statistics` must be one of {list(get_args(Statistics))}, got {statistics!r}."
        )


def as_classes(images: Tensor, labels: Labels) -> tuple[Tensor, tuple[Any, ...]]:
    """Class numbers of the images, and the names of the classes.

    Raises:
        ValueError: naming `labels`, if they are no classes, or not one for each image.
    """
    targets, class_names = as_targets(labels)
    _check_lengths(images, targets)
    if not class_names:
        raise ValueError(f"`labels` must be class names or integers, got {labels!r}.")
    return targets, class_names


def _check_bytes(engine: Engine, images: Tensor, targets: Tensor) -> None:
    """Whether the model itself makes floats of them."""
    try:
        outputs_for(engine, images, targets)
    except RuntimeError as error:
        raise ValueError(
            "`images` must be as the model had them in training, floats (of the datamodules in "
            "[0, 1]: images / 255), got torch.uint8."
        ) from error


def outputs_for(engine: Engine, images: Tensor, targets: Tensor) -> int:
    """Number of outputs for a task with these support examples."""
    x, y = images[None], targets[None].to(images.device)
    return engine.output_size(Episode(x, y, x, y))


class FastAdapts(Protocol):
    """A `MetaLearner`."""

    def fast_adapt(
        self, images: Tensor, labels: Labels, *, statistics: Statistics = "support"
    ) -> Adapted:
        """See above."""


def answer(learner: FastAdapts, question: Question) -> Tensor:
    """The probabilities of the classes (sorted by name) for each query, ``[Q, classes]``."""
    x, labels, queries, _, statistics = question
    adapted = learner.fast_adapt(x, labels, statistics=statistics)
    at_once = len(queries) if statistics == "transductive" else AT_ONCE
    return torch.cat([adapted.probabilities(some) for some in queries.split(at_once)])


def as_targets(labels: Labels) -> tuple[Tensor, tuple[Any, ...]]:
    """Targets for the loss, and the names of the classes if `labels` are classes.

    >>> as_targets(["pear", "apple", "pear"])
    (tensor([1, 0, 1]), ('apple', 'pear'))
    >>> import numpy
    >>> as_targets(list(numpy.array([4, 7])))
    (tensor([0, 1]), (4, 7))

    Raises:
        ValueError: if names and numbers are mixed.
    """
    if isinstance(labels, Tensor) and (labels.is_floating_point() or labels.ndim != 1):
        return labels, ()
    values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    values = [value.item() if hasattr(value, "item") else value for value in values]  # of numpy
    for kind in (str, int):
        if values and all(isinstance(value, kind) for value in values):
            names = tuple(sorted(set(values)))
            return torch.tensor([names.index(value) for value in values]), names
    try:
        return torch.tensor(values), ()
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`labels` must be class names, integers or targets, one kind of them, got {labels!r}."
        ) from error


def check_classes(
    names: Sequence[Any],
    outputs: int,
    argument: str,
    remedy: str = " An `EpisodeHead` as the model takes any number of classes.",
) -> None:
    """Check the number of classes against that of the network's outputs.

    Raises:
        ValueError: naming `argument` and the classes.
    """
    if len(names) != outputs:
        shown = ", ".join(map(str, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
        raise ValueError(
            f"`{argument}` must have {outputs} classes, as the model has {outputs} outputs, "
            f"got {len(names)}: {shown}.{remedy}"
        )
