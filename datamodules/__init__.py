"""Few-shot tasks as Lightning datamodules; see episodic.py for what they have in common."""

from datamodules.few_shot_folder import FewShotFolder
from datamodules.glyphs import Glyphs
from datamodules.image_folder import ImageFolder
from datamodules.mini_imagenet import MiniImagenet
from datamodules.omniglot import Omniglot
from datamodules.rl_tasks import RLTasks
from datamodules.sinusoid import Sinusoid
from datamodules.tensor_tasks import TensorTasks
from datamodules.torchvision_classes import TorchvisionClasses

__all__ = [
    "FewShotFolder",
    "Glyphs",
    "ImageFolder",
    "MiniImagenet",
    "Omniglot",
    "RLTasks",
    "Sinusoid",
    "TensorTasks",
    "TorchvisionClasses",
]
