"""The paper's networks and others. Any other `nn.Module` does as well."""

from lightning_maml.models.batch_norm import EpisodeBatchNorm, with_episode_statistics
from lightning_maml.models.context_vector import ContextVector
from lightning_maml.models.conv4 import Conv4
from lightning_maml.models.conv_embedding import ConvEmbedding
from lightning_maml.models.episode_head import EpisodeHead
from lightning_maml.models.mlp import MLP
from lightning_maml.models.omniglot_dense import OmniglotDense
from lightning_maml.models.resnet12 import ResNet12

__all__ = [
    "MLP",
    "ContextVector",
    "Conv4",
    "ConvEmbedding",
    "EpisodeBatchNorm",
    "EpisodeHead",
    "OmniglotDense",
    "ResNet12",
    "with_episode_statistics",
]
