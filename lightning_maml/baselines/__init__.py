"""Table 1's other systems, and the baselines of Sec. 5.1 and App. C.1; one method a file."""

from lightning_maml.baselines.classifier import PretrainedClassifier
from lightning_maml.baselines.episodic_method import EpisodicLearner, EpisodicMethod
from lightning_maml.baselines.mann import MANN
from lightning_maml.baselines.matching import MatchingNets
from lightning_maml.baselines.memory_module import MemoryModule
from lightning_maml.baselines.meta_lstm import MetaLSTM
from lightning_maml.baselines.multi_task import MultiTaskAverage
from lightning_maml.baselines.neural_statistician import NeuralStatistician
from lightning_maml.baselines.pretrained import Pretrained
from lightning_maml.baselines.prototypical import PrototypicalNets
from lightning_maml.baselines.siamese import SiameseNets

__all__ = [
    "MANN",
    "EpisodicLearner",
    "EpisodicMethod",
    "MatchingNets",
    "MemoryModule",
    "MetaLSTM",
    "MultiTaskAverage",
    "NeuralStatistician",
    "Pretrained",
    "PretrainedClassifier",
    "PrototypicalNets",
    "SiameseNets",
]
