"""The paper's environments (Sec. 5.3), each a batch of episodes as pure functions."""

from typing import TYPE_CHECKING, Any

from lightning_maml.rl.envs.point import Point

if TYPE_CHECKING:
    from lightning_maml.rl.envs.ant import Ant
    from lightning_maml.rl.envs.half_cheetah import HalfCheetah

__all__ = ["Ant", "HalfCheetah", "Point"]


def __getattr__(name: str) -> Any:
    """Half-cheetah and ant are imported when asked for: `Point` needs no MuJoCo."""
    if name == "HalfCheetah":
        from lightning_maml.rl.envs.half_cheetah import HalfCheetah

        return HalfCheetah
    if name == "Ant":
        from lightning_maml.rl.envs.ant import Ant

        return Ant
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
