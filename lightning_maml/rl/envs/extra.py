"""One clear line where the packages for reinforcement learning cannot be imported."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def rl_extra() -> Iterator[None]:
    """Put around imports of MuJoCo and gymnasium.

    Raises:
        ImportError: naming the missing package and how to install it, or the ``MUJOCO_GL`` whose
            OpenGL library MuJoCo does not find.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f'`{error.name}` is not installed; get it by: pip install "lightning-maml[rl]"'
        ) from error
    except AttributeError as error:
        # Out of PyOpenGL, for a library that is not there. Python would report it as
        # "cannot import name 'HalfCheetah'": the package's `__getattr__` must not raise it.
        way = os.environ.get("MUJOCO_GL")
        if way is None:
            raise
        raise ImportError(
            f"MuJoCo cannot be imported with MUJOCO_GL={way!r}: its OpenGL library is not found "
            f"({error}); install it, or unset MUJOCO_GL to run without pictures"
        ) from error
