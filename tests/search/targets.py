"""What is searched: every datamodule, learner, method, network and inner rule, on little data."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

import datamodules
from lightning_maml import Episode, MetaLearner, baselines, inner_rules, models
from lightning_maml.rl import GaussianMLP, MetaPolicy
from lightning_maml.rl.envs.point import Point

HERE = __name__
Settings = dict[str, Any]


class Target(NamedTuple):
    """What is made with settings, and used as a run would up to its first meta-update."""

    kind: type
    base: Callable[[], Settings]
    use: Callable[[Any, Settings], object]
    large: bool = True
    """Whether a large number costs nothing before use."""

    @property
    def hints(self) -> Settings:
        """The type hint of every public argument."""
        hints = get_type_hints(self.kind.__init__)
        return {name: hints.get(name) for name in inspect.signature(self.kind).parameters}


# -- data ------------------------------------------------------------------------------------------

FEW: Settings = {
    "meta_batch_size": 2, "eval_batch_size": 2, "train_batches_per_epoch": 1,
    "val_tasks": 2, "test_tasks": 2,
}  # fmt: skip
CLASSES: Settings = {"n_way": 2, "k_shot": 1, "query_shot": 1, **FEW}


def write_files() -> None:
    """The folders that the datamodules read, in the working directory."""
    for part in ("images", "mini/train", "mini/val", "mini/test"):
        _write_classes(Path(part), 3 if "/" in part else 8)
    for part in ("images_background", "images_evaluation"):
        _write_classes(Path("omniglot-py") / part / "Latin", 3)


def _write_classes(folder: Path, classes: int) -> None:
    for number in range(classes):
        place = folder / f"{folder.parent.name}_{folder.name}_{number}"
        place.mkdir(parents=True)
        for i in range(3):
            seed = list(f"{place}/{i}".encode())
            pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(place / f"{i}.png")


def one_task(seed: int) -> dict[str, Any]:
    """A task of 50 points."""
    x = np.random.default_rng(seed).normal(size=(50, 2)).astype(np.float32)
    return {"x": x, "y": (np.arange(50) % 5).astype(np.int64)}


class Pictures:
    """A data set as torchvision's: 8 classes of 3 pictures."""

    classes = tuple("abcdefgh")
    targets = tuple(number % 8 for number in range(24))

    def __len__(self) -> int:
        return 24

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        return Image.fromarray(pixels), self.targets[number]


def one_batch_each(data: Any, given: Settings) -> None:
    """A batch of training, of validation and of test, as they come to the model."""
    data.setup()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        data.on_after_batch_transfer(next(iter(loader)), 0)


def ask(data: Any, given: Settings) -> None:
    """The question that `predict` answers."""
    data.question()


def data_targets() -> list[Target]:
    """Each datamodule."""

    def target(kind: type, **base: Any) -> Target:
        return Target(kind, lambda: dict(base), one_batch_each)

    half: Settings = {"fractions": (0.5, 0.25, 0.25), "image_size": 8}
    return [
        target(datamodules.Sinusoid, **FEW, k_shot=3, query_shot=2),
        target(datamodules.RLTasks, **FEW, low=[0.0], high=[1.0]),
        target(datamodules.RLTasks, **FEW, choices=[[-1.0], [1.0]]),
        target(datamodules.Glyphs, **CLASSES, characters=(3, 3, 3), drawings=3),
        target(datamodules.TensorTasks, **FEW, make_task=f"{HERE}.one_task", k_shot=3),
        target(datamodules.TensorTasks, **CLASSES, make_task=f"{HERE}.one_task", relabel=True),
        target(datamodules.ImageFolder, **CLASSES, **half, root="images"),
        target(datamodules.MiniImagenet, **CLASSES, root="mini"),
        target(datamodules.Omniglot, **CLASSES, root=".", characters=(2, 2, 2)),
        target(datamodules.TorchvisionClasses, **CLASSES, **half, dataset=f"{HERE}.Pictures"),
        Target(
            datamodules.FewShotFolder,
            lambda: {"support": "images", "query": "mini", "image_size": 8, "channels": 1,
                     "invert": False},
            ask,
        ),
    ]  # fmt: skip


# -- learners --------------------------------------------------------------------------------------


def episode(shape: tuple[int, ...] = (1,), classes: int | None = None) -> Episode:
    """Two tasks of four support and four query examples of this shape."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 4, *shape, generator=generator)
    if classes is None:
        y = torch.randn(2, 4, 1, generator=generator)
    else:
        y = torch.arange(4).remainder(classes).repeat(2, 1)
    return Episode(x, y, 1 - x, y)


def updated(learner: MetaLearner, tasks: Episode) -> None:
    """One meta-update, as in a run, and an evaluation."""
    configured = learner.configure_optimizers()
    optimizer = configured if isinstance(configured, Optimizer) else configured[0][0]
    learner.meta_loss(tasks).backward()
    learner.meta_update.clip(list(learner.parameters()))
    optimizer.step()
    learner.evaluate(tasks)


def mlp(outputs: int = 1) -> nn.Module:
    """A network of 2 hidden units."""
    torch.manual_seed(0)
    return models.MLP(1, outputs, hidden=[2])


def of_regression(learner: Any, given: Settings) -> None:
    """It learns numbers."""
    updated(learner, episode())


def of_classes(learner: Any, given: Settings) -> None:
    """It learns classes."""
    updated(learner, episode(classes=2))


def evaluated(learner: Any, given: Settings) -> None:
    """It solves tasks."""
    learner.evaluate(episode())


def solved(learner: Any, given: Settings) -> None:
    """It classifies."""
    learner.evaluate(episode(classes=2))


def prototypes() -> nn.Module:
    """A method that classifies numbers."""
    return baselines.PrototypicalNets(mlp(2))


def learner_targets() -> list[Target]:
    """Each learner."""
    regression = lambda: {"model": mlp(), "loss": "mse"}  # noqa: E731
    classification = lambda: {"model": mlp(2), "loss": "cross_entropy"}  # noqa: E731
    return [
        Target(MetaLearner, regression, of_regression),
        Target(MetaLearner, classification, of_classes),
        Target(baselines.Pretrained, regression, of_regression),
        Target(
            baselines.MultiTaskAverage, lambda: regression() | {"networks": 2}, evaluated, False
        ),
        Target(baselines.PretrainedClassifier, lambda: {**classification(), "n_way": 2}, solved),
        Target(baselines.EpisodicLearner, lambda: {"model": prototypes()}, of_classes),
        Target(MetaPolicy, policy, evaluated_policy),
    ]


def made(what: Any, given: Settings) -> None:
    """Nothing more."""


def policy() -> Settings:
    """For a point that walks three steps."""
    parts = {"policy": GaussianMLP(2, 2, (2,)), "environment": Point(horizon=3)}
    return {**parts, "trajectories": 2, "eval_inner_steps": 1}


def evaluated_policy(learner: Any, given: Settings) -> None:
    """Tasks before and after adaptation."""
    data = datamodules.RLTasks(**FEW, low=[-1.0, -1.0], high=[1.0, 1.0])
    learner.evaluate(next(iter(data.val_dataloader())))


# -- inner rules -----------------------------------------------------------------------------------


def as_rule(rule: Any, given: Settings) -> None:
    """Of a learner."""
    of_regression(MetaLearner(mlp(), "mse", inner_rule=rule), given)


def rule_targets() -> list[Target]:
    """Each inner rule."""
    needed: dict[type, Settings] = {
        inner_rules.Momentum: {},
        inner_rules.Adam: {},
        inner_rules.Clipped: {"norm": 1.0},
        inner_rules.HeldBack: {"strength": 1.0},
    }
    return [Target(kind, lambda base=base: dict(base), as_rule) for kind, base in needed.items()]


# -- networks --------------------------------------------------------------------------------------


def applied(shape: Callable[[Settings], tuple[int, ...]]) -> Callable[[Any, Settings], object]:
    """Forward and backward, for examples of the shape that the settings ask for."""

    def use(net: nn.Module, given: Settings) -> None:
        output: Tensor = net(torch.ones(3, *shape(given)))
        output.sum().backward()

    return use


def image(given: Settings) -> tuple[int, int, int]:
    """Channels, height, width."""
    size = given.get("image_size", 28)
    return given.get("in_channels", 1), size, size


def with_context(net: Any, given: Settings) -> None:
    """The model takes as many more features."""
    extra = net.context.shape[0]
    net.model = nn.Linear(1 + extra, 1)
    net(torch.ones(3, 1, *net.context.shape[1:])) if net.context.ndim == 1 else None


def net_targets() -> list[Target]:
    """Each network."""

    def target(kind: type, use: Any, **base: Any) -> Target:
        return Target(kind, lambda: dict(base), use, large=False)

    small: Settings = {"channels": 2}
    return [
        target(models.MLP, applied(lambda given: (given.get("in_features", 1),))),
        target(models.Conv4, applied(image), n_way=2, **small),
        target(models.ConvEmbedding, applied(image), **small),
        target(models.OmniglotDense, applied(image), n_way=2, hidden=[2], image_size=4),
        target(models.ResNet12, applied(image), n_way=2, in_channels=1, widths=[2, 2, 2, 2]),
        target(models.EpisodeHead, made, body=nn.Linear(1, 2), features=2),
        target(models.ContextVector, with_context, model=nn.Linear(2, 1), size=1),
        target(GaussianMLP, applied(lambda given: (given["observation_size"],)),
               observation_size=2, action_size=1, hidden=[2]),
        target(Point, made),
    ]  # fmt: skip


def as_method(shape: tuple[int, ...]) -> Callable[[Any, Settings], object]:
    """Of an `EpisodicLearner`, on examples of this shape."""

    def use(method: nn.Module, given: Settings) -> None:
        updated(baselines.EpisodicLearner(method), episode(shape, classes=2))

    return use


def method_targets() -> list[Target]:
    """Each method of an `EpisodicLearner`."""

    def target(kind: type, use: Any, **base: Any) -> Target:
        return Target(kind, lambda: dict(base), use, large=False)

    encoder = {"encoder": nn.Linear(1, 2)}
    pixels = {"in_channels": 1, "image_size": 2, "hidden": 2, "slots": 4, "width": 2, "heads": 1}
    few = {"channels": 1, "context": 2, "latent": 2, "hidden": 2}
    return [
        target(baselines.PrototypicalNets, as_method((1,)), **encoder),
        target(baselines.MatchingNets, as_method((1,)), **encoder, features=2),
        target(baselines.SiameseNets, as_method((1,)), **encoder, features=2),
        target(baselines.MemoryModule, as_method((1,)), **encoder, features=2, slots=8),
        target(baselines.MetaLSTM, as_method((1,)), model=mlp(2), steps=1, hidden=2),
        target(baselines.MANN, as_method((1, 2, 2)), n_way=2, **pixels),
        target(baselines.NeuralStatistician, as_method((1, 28, 28)), **few),
    ]


TARGETS = [
    *data_targets(), *learner_targets(), *rule_targets(), *net_targets(), *method_targets(),
]  # fmt: skip
