"""The paper's environments (Sec. 5.3), each a batch of episodes as pure functions."""

from lightning_maml.rl.envs.point import Point

__all__ = ["Point"]
