"""A number that is not finite stops the run, says where and when, and reaches no checkpoint."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from lightning_maml import Episode, MetaLearner
from lightning_maml.baselines import EpisodicLearner, PrototypicalNets
from lightning_maml.models import ConvEmbedding
from lightning_maml.not_finite import where_not_finite
from tests.test_meta_learner import loader, trainer

BAD_UPDATE = 3


def episodes(part: str | None = None, value: float = 0.0) -> list[Episode]:
    """Five batches of two tasks; the third has `value` in `part`, in its second task."""
    torch.manual_seed(0)
    made = [Episode(*(torch.randn(2, 4, 1) for _ in range(4))) for _ in range(5)]
    if part is not None:
        getattr(made[BAD_UPDATE - 1], part)[1, 2, 0] = value
    return made


class Save(Callback):
    """Writes a checkpoint after each update."""

    def on_train_batch_end(self, run: Trainer, module: LightningModule, *_: Any) -> None:
        run.save_checkpoint(f"{run.default_root_dir}/{run.global_step}.ckpt")


def stopped(folder: Path, maml: MetaLearner, batches: list[Episode], *callbacks: Callback) -> str:
    """What the run says as it stops; its checkpoints, one for each update, are finite."""
    run = trainer(folder, max_steps=5, callbacks=[*callbacks, Save()])
    with pytest.raises(FloatingPointError) as stop:
        run.fit(maml, loader(*batches))
    saved = [torch.load(path, weights_only=True) for path in folder.glob("*.ckpt")]
    assert sorted(content["global_step"] for content in saved) == list(range(1, BAD_UPDATE))
    for content in saved:
        assert all(value.isfinite().all() for value in content["state_dict"].values())
    return str(stop.value)


def learner(loss: Any = F.mse_loss, **settings: Any) -> MetaLearner:
    torch.manual_seed(1)
    return MetaLearner(nn.Linear(1, 1), loss=loss, **{"inner_lr": 0.05, **settings})


@pytest.mark.parametrize("part", Episode._fields)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_in_the_data(tmp_path, part, value) -> None:
    said = stopped(tmp_path, learner(), episodes(part, value))
    assert "at meta-update 3; the weights are those before it." in said
    assert said.endswith(f"It comes from `{part}`, {value} at [1, 2, 0].")


def test_in_the_loss(tmp_path) -> None:
    """A loss that divides by zero for one target, whatever the weights."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return ((output - target).square() / (target != 7).float()).mean()

    said = stopped(tmp_path, learner(loss), episodes("query_y", 7.0))
    assert "meta-loss (inf) or its gradient" in said
    assert "at meta-update 3;" in said
    assert "This batch and the weights are finite" in said


def test_in_the_gradient(tmp_path) -> None:
    """A loss that is finite but has no slope at one target: the square root of zero."""

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return ((output - target) * (target != 7)).square().mean(dim=-1).sqrt().mean()

    said = stopped(tmp_path, learner(loss, first_order=True), episodes("query_y", 7.0))
    assert "gradient (norm nan) is not finite at meta-update 3;" in said
    assert "the first that is not: `model.weight`, nan at [0, 0]" in said


class Spoil(Callback):
    """Puts a number that is not finite into a parameter before the third update."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_batch_start(self, run: Trainer, module: LightningModule, *_: Any) -> None:
        if run.global_step == BAD_UPDATE - 1:
            with torch.no_grad():
                dict(module.named_parameters())[self.name].fill_(math.nan)


@pytest.mark.parametrize("name", ["inner_lrs.weight", "model.bias"])
def test_in_a_learned_step_size_or_a_weight(tmp_path, name) -> None:
    said = stopped(tmp_path, learner(learn_inner_lr="per_tensor"), episodes(), Spoil(name))
    assert "at meta-update 3;" in said
    assert f"It comes from `{name}`, nan at [" in said


def test_weights_that_an_update_makes_infinite_are_not_saved(tmp_path) -> None:
    """A meta-gradient that is finite, times a rate that is not small enough."""

    class Rate(Callback):
        def on_train_batch_start(self, run: Trainer, *_: Any) -> None:
            if run.global_step == BAD_UPDATE - 1:
                run.optimizers[0].param_groups[0]["lr"] = 1e38

    batches = episodes()
    batches[BAD_UPDATE - 1].query_y.mul_(1e3)
    sgd = partial(torch.optim.SGD, lr=1e-3)
    said = stopped(tmp_path, learner(optimizer=sgd), batches, Rate())
    assert said.startswith("`model.weight` is not finite after meta-update 3: no checkpoint")


def images(part: str, value: float) -> list[Episode]:
    """As `episodes`, of 16x16 images of two classes."""
    torch.manual_seed(0)
    labels = torch.tensor([[0, 1, 0, 1]] * 2)
    made = [
        Episode(torch.randn(2, 4, 1, 16, 16), labels, torch.randn(2, 4, 1, 16, 16), labels)
        for _ in range(5)
    ]
    getattr(made[BAD_UPDATE - 1], part)[1, 2, 0, 3, 5] = value
    return made


@pytest.mark.parametrize("part", ["support_x", "query_x"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_in_the_data_of_a_method_with_running_statistics(tmp_path, part, value) -> None:
    """Nor do they reach the statistics, which a forward pass alone would change."""
    method = EpisodicLearner(PrototypicalNets(ConvEmbedding(channels=2)))
    said = stopped(tmp_path, method, images(part, value))
    assert said == (
        "The batch is not finite at meta-update 3; the weights are those before it. "
        f"It comes from `{part}`, {value} at [1, 2, 0, 3, 5]."
    )
    assert all(value.isfinite().all() for value in method.state_dict().values())


class WithBuffers(nn.Linear):
    """A mask is infinite by intention; a mean is not."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        self.register_buffer("mean", torch.zeros(2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_buffers_that_become_infinite_are_not_saved(tmp_path, value) -> None:
    class Poison(Callback):
        def on_train_batch_start(self, run: Trainer, module: LightningModule, *_: Any) -> None:
            if run.global_step == BAD_UPDATE - 1:
                module.model.mean[1] = value

    maml = MetaLearner(WithBuffers(), loss="mse")
    run = trainer(tmp_path, max_steps=5, callbacks=[Poison(), Save()])
    with pytest.raises(FloatingPointError, match="mean` is not finite after meta-update 3"):
        run.fit(maml, loader(*episodes()))
    assert sorted(path.stem for path in tmp_path.glob("*.ckpt")) == ["1", "2"]


def test_a_buffer_with_nan_is_named_and_an_infinite_mask_is_not() -> None:
    net = WithBuffers()
    assert where_not_finite(episodes()[0], net, "Try.").startswith("This batch and the weights are")
    net.mean[1] = math.nan
    assert where_not_finite(episodes()[0], net, "Try.") == "It comes from `mean`, nan at [1]."
