"""What is measured: one meta-gradient of a batch of tasks, with the settings of a config."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from lightning_maml import Episode
from lightning_maml.functional_model import module_tensors
from lightning_maml.losses import LOSSES, Loss, by_name
from lightning_maml.models import EpisodeBatchNorm

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = ("sinusoid", "omniglot_5way_1shot", "omniglot_20way_1shot", "mini_1shot", "mini_5shot")


@dataclass(frozen=True)
class Workload:
    """The settings of a meta-gradient.

    Attributes:
        name: the config's.
        network: makes it, with new weights.
        loss: ``(output, target) -> scalar`` of one task.
        inner_lr: alpha.
        inner_steps: inner updates in training.
        adapts: patterns on parameter names: what the inner loop changes.
        tasks: in the batch.
        example: shape of an example.
        n_way: number of classes; 0 for a regression.
        support: examples per task.
        query: likewise.
        derivation: of this package, as configured; the next two likewise.
        tasks_at_once: None: all.
        compile: whether, or "auto".
    """

    name: str
    network: Callable[[], nn.Module]
    loss: Loss
    inner_lr: float
    inner_steps: int
    adapts: tuple[str, ...]
    tasks: int
    example: tuple[int, ...]
    n_way: int
    support: int
    query: int
    derivation: str = "sweep"
    tasks_at_once: int | None = None
    compile: bool | Literal["auto"] = False

    def problem(
        self, seed: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> "Problem":
        """Weights and random tasks that follow from `seed`: the same numbers in every precision."""
        torch.manual_seed(seed)
        model = self.network().to(device, dtype)
        x, y = self._examples(torch.Generator().manual_seed(seed))
        x, y = x.to(device, dtype), y.to(device, dtype if y.is_floating_point() else None)
        cut = self.support
        return Problem(self, model, Episode(x[:, :cut], y[:, :cut], x[:, cut:], y[:, cut:]))

    def _examples(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and their classes in turn, or points of sinusoids, a sinusoid a task."""
        examples = self.support + self.query
        x = torch.rand(self.tasks, examples, *self.example, generator=generator)
        if self.n_way:
            return x, torch.arange(examples).remainder(self.n_way).repeat(self.tasks, 1)
        amplitude, phase = torch.rand(2, self.tasks, 1, 1, generator=generator)
        x = 10 * x - 5
        return x, 5 * amplitude * torch.sin(x + 3 * phase)


@dataclass(frozen=True)
class Problem:
    """A workload with its weights and tasks, in one precision, on one device."""

    workload: Workload
    model: nn.Module
    episode: Episode

    @property
    def adapted(self) -> list[str]:
        """Names of the parameters that the inner loop changes."""
        return list(module_tensors(self.model, self.workload.adapts).adapted)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Of one task."""
        return self.workload.loss(output, target)

    def with_layers_of_torch(self) -> "Problem":
        """The same with torch's batch norm, as who does not use this package has it."""
        model = deepcopy(self.model)
        for module in model.modules():
            if isinstance(module, EpisodeBatchNorm):
                module.__class__ = _BatchNormOfTorch
        return replace(self, model=model)


class _BatchNormOfTorch(EpisodeBatchNorm):
    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor | None = self.weight
        if weight is None:  # without it, an offset has no second derivative there
            weight = x.new_ones(self.num_features)
        return F.batch_norm(x, None, None, weight, self.bias, training=True, eps=self.eps)


Gradient = dict[str, Tensor]
"""The meta-gradient (mean over tasks) by parameter name."""

Run = Callable[[], Gradient]
"""Works the meta-gradient out, anew in each call, and keeps nothing of it."""

Make = Callable[[Problem], Run]
"""A contestant: prepares what can be reused from one meta-gradient to the next."""


def taken(model: nn.Module) -> Gradient:
    """What is in `.grad`, which is empty afterwards."""
    gradient = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        gradient[name], parameter.grad = parameter.grad, None
    return gradient


def from_config(name: str) -> Workload:
    """The workload of ``configs/<name>.yaml``."""
    config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    network: dict[str, Any] = model["model"]["init_args"]
    n_way = data.get("n_way", 0)
    size = ("in_channels", "image_size", "image_size") if n_way else ("in_features",)
    return Workload(
        name=name,
        network=lambda: _class(model["model"]["class_path"])(**network),
        loss=by_name(model["loss"], LOSSES, "loss"),
        inner_lr=model["inner_lr"],
        inner_steps=model["inner_steps"],
        adapts=tuple(model["adapts"]),
        tasks=data["meta_batch_size"],
        example=tuple(network[key] for key in size),
        n_way=n_way,
        support=max(n_way, 1) * data["k_shot"],
        query=max(n_way, 1) * data["query_shot"],
        derivation=model["derivation"],
        tasks_at_once=model["tasks_at_once"],
        compile=model["compile"],
    )


def _class(path: str) -> Callable[..., nn.Module]:
    module, _, name = path.rpartition(".")
    found: Callable[..., nn.Module] = getattr(import_module(module), name)
    return found
