"""The methods without an inner loop, as small as they get, as learners of small tasks of images."""

from collections.abc import Callable

import torch
from torch import nn

from datamodules import Glyphs
from lightning_maml.baselines import (
    MANN,
    EpisodicLearner,
    MatchingNets,
    MemoryModule,
    MetaLSTM,
    NeuralStatistician,
    PrototypicalNets,
    SiameseNets,
)

N_WAY, FEATURES = 3, 4


def plain() -> nn.Module:
    """Every task and example for itself, and no random numbers."""
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(49, FEATURES), nn.Tanh())


def stateful() -> nn.Module:
    """Batch norm with running statistics, and dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 2, 4, 4), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(98, FEATURES),
    )  # fmt: skip


PLAIN: dict[str, Callable[[], nn.Module]] = {
    "prototypical": lambda: PrototypicalNets(plain()),
    "matching": lambda: MatchingNets(plain(), "cosine", 2, FEATURES),
    "siamese": lambda: SiameseNets(plain(), FEATURES),
    "meta-LSTM": lambda: MetaLSTM(nn.Sequential(nn.Flatten(), nn.Linear(784, N_WAY)), 2, hidden=3),
}
STATEFUL: dict[str, Callable[[], nn.Module]] = {
    "prototypical, batch norm": lambda: PrototypicalNets(stateful()),
    "matching, batch norm": lambda: MatchingNets(stateful(), "euclidean"),
    "siamese, batch norm": lambda: SiameseNets(stateful(), FEATURES),
    "memory module": lambda: MemoryModule(stateful(), FEATURES, slots=12),
    "MANN": lambda: MANN(N_WAY, image_size=4, hidden=8, slots=6, width=4, heads=2),
    "statistician": lambda: NeuralStatistician(channels=1, context=4, latent=2, hidden=6),
}


def small_learner(name: str) -> EpisodicLearner:
    torch.manual_seed(0)
    return EpisodicLearner((PLAIN | STATEFUL)[name](), meta_lr=0.01)


def small_tasks(meta_batch_size: int = 2) -> Glyphs:
    return Glyphs(
        n_way=N_WAY, k_shot=2, query_shot=2, meta_batch_size=meta_batch_size, eval_batch_size=4,
        train_batches_per_epoch=5, val_tasks=6, test_tasks=7, characters=(6, 3, 3), drawings=5,
    )  # fmt: skip
