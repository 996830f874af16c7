"""Any module: those that users bring, through `fit`, and their meta-gradient by a naive loop."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torchvision.models import resnet18

from lightning_maml import Episode, MetaLearner
from lightning_maml.models import Conv4
from tests.cases import SequenceRegressor
from tests.naive_maml import naive_meta_gradient
from tests.test_meta_learner import loader, trainer

CLASSES, LR = 3, 0.05
CONFIGS = Path(__file__).parents[1] / "configs"


class Transformer(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(dim=1))


class LanguageModel(nn.Module):
    """Its decoder shares the embedding's weight, and one layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.decoder = nn.Linear(5, 7, bias=False)
        self.decoder.weight = self.embedding.weight
        self.unused = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.embedding(x)).mean(dim=1))


def frozen_backbone() -> nn.Module:
    """Its batch norm is frozen, too."""
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return nn.Sequential(backbone.requires_grad_(False), nn.Linear(4 * 36, CLASSES))


def two_outputs() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def dropout_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, CLASSES))


@dataclass(frozen=True)
class User:
    """A module, the shape of an example, and what the learner is told.

    Attributes:
        y: shape of a target; ``None``: a class number.
        one_by_one: for what torch has no vmap rule for, or takes longer with it.
    """

    make: Callable[[], nn.Module]
    x: tuple[int, ...]
    y: tuple[int, ...] | None = None
    tokens: bool = False
    one_by_one: bool = False

    def learner(self, **settings: object) -> MetaLearner:
        torch.manual_seed(0)
        loss = F.cross_entropy if self.y is None else F.mse_loss
        at_once = 1 if self.one_by_one else None
        settings = {"inner_lr": LR, "tasks_at_once": at_once, **settings}
        return MetaLearner(self.make(), loss=loss, **settings)

    def episode(self, dtype: torch.dtype = torch.float32) -> Episode:
        g, parts = torch.Generator().manual_seed(1), []
        for examples in (6, 5):
            size = (4, examples, *self.x)
            x = torch.randint(0, 7, size, generator=g) if self.tokens else None
            parts.append(torch.randn(size, generator=g, dtype=dtype) if x is None else x)
            labels = torch.arange(examples).remainder(CLASSES).repeat(4, 1)
            y = labels if self.y is None else None
            size = (4, examples, *(self.y or ()))
            parts.append(torch.randn(size, generator=g, dtype=dtype) if y is None else y)
        return Episode(*parts)


USERS = {
    "resnet18": User(lambda: resnet18(num_classes=CLASSES), (3, 16, 16), one_by_one=True),
    "transformer": User(lambda: Transformer(0.1), (5, 8)),
    "lstm": User(SequenceRegressor, (5, 1), (1,), one_by_one=True),
    "dropout": User(dropout_net, (1, 8, 8)),
    "frozen_backbone": User(frozen_backbone, (1, 8, 8)),
    "tied_and_unused": User(LanguageModel, (4,), tokens=True),
    "two_outputs": User(two_outputs, (3,), (2,)),
}
SLOW = pytest.mark.slow


@pytest.mark.parametrize("name", USERS)
def test_fit_trains_what_can_be_trained_and_nothing_else(name: str, tmp_path: Path) -> None:
    """A05, A06, A07, A08, A11, A14 under a Trainer: two meta-updates, and validation."""
    user = USERS[name]
    maml, episode = user.learner(), user.episode()
    if name == "resnet18":  # the time goes into its 11 million weights
        episode = Episode(*(part[:2] for part in episode))
    before = {n: p.clone() for n, p in maml.model.state_dict().items()}
    run = trainer(tmp_path, max_steps=2, max_epochs=-1)
    run.fit(maml, loader(episode), loader(episode))
    assert run.global_step == 2
    metric = f"val/{maml.metric_name}"
    assert torch.isfinite(run.callback_metrics[metric])
    for n, p in maml.model.named_parameters():
        still = not p.requires_grad or n.startswith("unused")
        # What batch norm, or a softmax over keys, takes away again: its gradient is rounding.
        if not n.endswith(("conv.bias", "in_proj_bias")):
            assert torch.equal(p, before[n]) == still, n
        assert torch.isfinite(p).all()
    for n, buffer in maml.model.named_buffers():
        assert torch.equal(buffer, before[n])
    if name == "tied_and_unused":
        assert maml.model.decoder.weight is maml.model.embedding.weight


NAIVE = {
    "transformer": User(lambda: Transformer(0.0), (5, 8)),
    **{name: USERS[name] for name in ("lstm", "frozen_backbone", "tied_and_unused", "two_outputs")},
}


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("name", [*NAIVE, pytest.param("resnet18", marks=SLOW)])
def test_meta_gradient_is_that_of_a_naive_loop(name: str, first_order: bool) -> None:
    """A08 (both orders, four tasks are the mean of four single ones) and the others; float64."""
    user = {**USERS, **NAIVE}[name]
    maml = user.learner(inner_steps=2, first_order=first_order).double()
    episode = user.episode(torch.float64)
    maml.meta_loss(episode).backward()
    free = {n: p for n, p in maml.model.named_parameters() if p.requires_grad and "unused" not in n}
    _, naive = naive_of_trainable(maml, episode, first_order, set(free))
    for n, p in free.items():
        torch.testing.assert_close(p.grad, naive[n], rtol=1e-7, atol=1e-11)


def naive_of_trainable(
    maml: MetaLearner, episode: Episode, first_order: bool, free: set[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Frozen parameters ask for a gradient in between, and the inner loop leaves them alone."""
    frozen = [p for p in maml.model.parameters() if not p.requires_grad]
    try:
        for p in frozen:
            p.requires_grad_(True)
        return naive_meta_gradient(maml.model, maml.loss, episode, LR, 2, first_order, free)
    finally:
        for p in frozen:
            p.requires_grad_(False)


@pytest.mark.parametrize(("method", "fixed"), [("anil", "blocks"), ("boil", "head")])
@pytest.mark.parametrize("first_order", [False, True])
def test_head_or_body_alone(method: str, fixed: str, first_order: bool) -> None:
    """ANIL and BOIL as their configs have them: the rest stays to the bit, and is meta-learned."""
    config = yaml.safe_load((CONFIGS / f"mini_5shot_{method}.yaml").read_text(encoding="utf-8"))
    adapts = config["model"]["init_args"]["adapts"]
    user = User(lambda: Conv4(CLASSES, 1, 4, 16, "max_pool", "flatten"), (1, 16, 16))
    maml = user.learner(inner_steps=2, adapts=adapts, first_order=first_order).double()
    episode = user.episode(torch.float64)
    theta = maml.adapt(episode.support_x[0], episode.support_y[0])
    parameters = dict(maml.model.named_parameters())
    for n, p in parameters.items():
        if not n.endswith("conv.bias"):  # which batch norm takes away again
            assert torch.equal(theta[n], p) == n.startswith(fixed), n
    maml.meta_loss(episode).backward()
    adapted = {n for n in parameters if not n.startswith(fixed)}
    _, naive = naive_meta_gradient(maml.model, maml.loss, episode, LR, 2, first_order, adapted)
    for n, p in parameters.items():
        torch.testing.assert_close(p.grad, naive[n], rtol=1e-8, atol=1e-12)
        assert p.grad.any()
