"""MAML (Finn, Abbeel, Levine, ICML 2017) on PyTorch Lightning."""

from lightning_maml.engine import maml_loss
from lightning_maml.episode import Episode
from lightning_maml.meta_learner import MetaLearner
from lightning_maml.task_curve import EvalResult

__all__ = ["Episode", "EvalResult", "MetaLearner", "maml_loss"]
