"""The paper's baselines for few-shot regression (Sec. 5.1, App. C.1); each stands in one file."""

from lightning_maml.baselines.multi_task import MultiTaskAverage
from lightning_maml.baselines.pretrained import Pretrained

__all__ = ["MultiTaskAverage", "Pretrained"]
