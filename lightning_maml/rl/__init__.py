"""Reinforcement learning (Sec. 5.3, Algorithm 3)."""

from lightning_maml.rl.environment import Environment, Transition
from lightning_maml.rl.meta_policy import MetaPolicy
from lightning_maml.rl.policy import GaussianMLP
from lightning_maml.rl.trpo import Trpo

__all__ = ["Environment", "GaussianMLP", "MetaPolicy", "Transition", "Trpo"]
