"""The paper's baselines (Sec. 5.1, App. C.1, Table 1); each stands in one file."""

from lightning_maml.baselines.classifier import PretrainedClassifier
from lightning_maml.baselines.multi_task import MultiTaskAverage
from lightning_maml.baselines.pretrained import Pretrained

__all__ = ["MultiTaskAverage", "Pretrained", "PretrainedClassifier"]
