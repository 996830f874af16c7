"""MAML (Finn, Abbeel, Levine, ICML 2017) on PyTorch Lightning."""

from lightning_maml.episode import Episode

__all__ = ["Episode"]
