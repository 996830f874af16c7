"""The paper's networks. Any other `nn.Module` does as well."""

from lightning_maml.models.batch_norm import EpisodeBatchNorm, with_episode_statistics
from lightning_maml.models.context_vector import ContextVector
from lightning_maml.models.conv4 import Conv4
from lightning_maml.models.conv_embedding import ConvEmbedding
from lightning_maml.models.mlp import MLP
from lightning_maml.models.omniglot_dense import OmniglotDense

__all__ = [
    "MLP",
    "ContextVector",
    "Conv4",
    "ConvEmbedding",
    "EpisodeBatchNorm",
    "OmniglotDense",
    "with_episode_statistics",
]
