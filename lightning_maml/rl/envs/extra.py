"""One clear line where the packages for reinforcement learning are not installed."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rl_extra() -> Iterator[None]:
    """Put around imports of MuJoCo and gymnasium.

    Raises:
        ImportError: naming the missing package and how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f'`{error.name}` is not installed; get it by: pip install "lightning-maml[rl]"'
        ) from error
