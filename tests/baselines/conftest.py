"""Small linear regressions whose gradient descent is known in closed form."""

from pathlib import Path

import torch
from lightning import LightningDataModule
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_maml import Episode


def slopes(tasks: int, seed: int = 0) -> Episode:
    """y = slope * x, float64; slopes around 2."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tasks, 11, 1, generator=g, dtype=torch.float64)
    y = (2 + torch.randn(tasks, 1, 1, generator=g, dtype=torch.float64)) * x
    return Episode(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])


def line(weight: float = 0.5) -> nn.Module:
    """x -> weight * x."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, weight)
    return model


def errors_of_gradient_descent(episode: Episode, weight: float, lr: float, steps: int) -> Tensor:
    """Query errors of `line` after 0 .. steps steps: w_k - s = (1 - 2 lr mean x^2)^k (w - s).

    Shape: ``[steps + 1, tasks]``.
    """
    slope = episode.support_y[:, 0, 0] / episode.support_x[:, 0, 0]
    shrinks = 1 - 2 * lr * episode.support_x.square().mean(dim=(1, 2))
    powers = torch.arange(steps + 1, dtype=torch.float64)[:, None]
    distance = shrinks**powers * (weight - slope)
    return distance.square() * episode.query_x.square().mean(dim=(1, 2))


class Slopes(LightningDataModule):
    """Tasks of `slopes`, in batches of two: training 4, validation 5, test 7."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor
        self.stages: list[str | None] = []

    def setup(self, stage: str | None = None) -> None:
        self.stages.append(stage)

    def train_dataloader(self) -> DataLoader:
        return self._loader(slopes(4))

    def val_dataloader(self) -> DataLoader:
        return self._loader(slopes(5, seed=1))

    def test_dataloader(self) -> DataLoader:
        return self._loader(slopes(7, seed=2))

    predict_dataloader = test_dataloader

    def _loader(self, tasks: Episode) -> DataLoader:
        scaled = tasks._replace(support_y=tasks.support_y * self.factor)
        parts = [Episode(*(p[i : i + 2] for p in scaled)) for i in range(0, tasks.tasks, 2)]
        return DataLoader(parts, batch_size=None)


def make_trainer(folder: Path, **settings: object) -> Trainer:
    """Quiet, on the CPU."""
    defaults = {
        "max_steps": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder,
    }  # fmt: skip
    return Trainer(**{**defaults, **settings})
