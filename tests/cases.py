"""Networks and episodes that the tests of the engine share, all in float64."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from lightning_maml.engine import Engine
from lightning_maml.episode import Episode
from lightning_maml.inner_loop import InnerLoop
from lightning_maml.meta_gradient import MetaGradient
from lightning_maml.models import MLP, Conv4
from lightning_maml.models.batch_norm import with_episode_statistics

TASKS, SUPPORT, QUERY, CLASSES = 3, 6, 7, 3


class SequenceRegressor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 8, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean(dim=1))


def smooth_conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(),
        nn.Linear(4 * 36, CLASSES),
    )  # fmt: skip


def embedding() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(7, 4), nn.Flatten(), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, CLASSES)
    )


def small_resnet18() -> nn.Module:
    return with_episode_statistics(resnet18(num_classes=CLASSES))


def smooth_resnet18() -> nn.Module:
    """Without kinks: somewhere among 11 million weights, any finite step crosses one."""
    model = small_resnet18()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.SiLU())
            elif isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(3, 2, padding=1))
    return model


@dataclass(frozen=True)
class Case:
    """A network with data for it.

    Attributes:
        make: makes the network.
        x: shape of an example.
        head: pattern that matches the parameters of its last layer.
        eps: step of finite differences; small where ReLU and max-pooling have kinks nearby.
        tokens: whether examples are integers.
        regression: whether the loss is the squared error.
        tasks_at_once: 1 where torch has no vmap rule.
    """

    make: Callable[[], nn.Module]
    x: tuple[int, ...]
    head: str
    eps: float = 1e-5
    tokens: bool = False
    regression: bool = False
    tasks_at_once: int | None = None

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().double()

    @property
    def loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        return F.mse_loss if self.regression else F.cross_entropy

    def episode(self, tasks: int = TASKS) -> Episode:
        g = torch.Generator().manual_seed(1)
        parts = []
        for examples in (SUPPORT, QUERY):
            size = (tasks, examples, *self.x)
            parts.append(
                torch.randint(0, 7, size, generator=g)
                if self.tokens
                else torch.randn(size, generator=g, dtype=torch.float64)
            )
            parts.append(
                torch.randn((tasks, examples, 1), generator=g, dtype=torch.float64)
                if self.regression
                else torch.arange(examples).remainder(CLASSES).expand(tasks, -1).contiguous()
            )
        return Episode(*parts)

    def engine(self, **settings: object) -> Engine:
        settings = {"tasks_at_once": self.tasks_at_once, **settings}
        return Engine(self.model(), self.loss, **settings)


CASES = {
    "mlp": Case(MLP, (1,), "head.*", eps=1e-6, regression=True),
    "conv4": Case(
        lambda: Conv4(CLASSES, 1, 4, 16, "max_pool", "flatten"), (1, 16, 16), "head.*", eps=1e-8
    ),
    "group_norm_silu": Case(smooth_conv, (1, 6, 6), "4.*"),
    "embedding": Case(embedding, (4,), "4.*", tokens=True),
    "lstm": Case(SequenceRegressor, (5, 1), "head.*", regression=True, tasks_at_once=1),
    "attention": Case(Attention, (5, 8), "head.*", eps=1e-6),
    "smooth_resnet18": Case(smooth_resnet18, (3, 16, 16), "fc.*", eps=1e-9, tasks_at_once=1),
    "resnet18": Case(small_resnet18, (3, 16, 16), "fc.*", eps=1e-9, tasks_at_once=1),
}


def flat(result: MetaGradient) -> Tensor:
    """The whole meta-gradient as one vector."""
    return torch.cat([g.flatten() for part in result.grads for g in part.values()])


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def meta_gradient(engine: Engine, loop: InnerLoop, episode: Episode) -> MetaGradient:
    """With learned step sizes at their initial values."""
    return engine.meta_gradient(
        loop, episode, loop.step_sizes.initial(engine.tensors().stepped, loop.steps)
    )
