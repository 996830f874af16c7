"""Images of a MuJoCo state, without a display."""

import atexit
import os
import platform
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_maml.rl.environment import DrawingError, Floats
from lightning_maml.rl.envs.extra import rl_extra

with rl_extra():
    import mujoco


def frame(model: Any, physics: Floats, width: int, height: int) -> npt.NDArray[np.uint8]:
    """What the model's first camera, which follows the robot, sees: ``[height, width, 3]``.

    Args:
        physics: ``[1 + nq + nv]``, clock, positions, velocities.

    Raises:
        DrawingError: where neither EGL nor OSMesa works.
    """
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, physics, mujoco.mjtState.mjSTATE_FULLPHYSICS)
    mujoco.mj_forward(model, data)
    _context().make_current()
    drawing = _drawing(model, width, height)
    scene = mujoco.MjvScene(model, maxgeom=1000)
    scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0  # four fifths of the time without a GPU
    camera = mujoco.MjvCamera()
    camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
    mujoco.mjv_updateScene(
        model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene
    )
    image = np.empty((height, width, 3), dtype=np.uint8)
    window = mujoco.MjrRect(0, 0, width, height)
    mujoco.mjr_render(window, scene, drawing)
    mujoco.mjr_readPixels(image, None, window, drawing)
    return image[::-1].copy()  # OpenGL's rows begin at the bottom


@lru_cache(maxsize=4)  # textures take longer to load than a frame to draw
def _drawing(model: Any, width: int, height: int) -> Any:
    drawing = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    mujoco.mjr_resizeOffscreen(width, height, drawing)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, drawing)
    return drawing


@lru_cache(maxsize=1)  # one for all models: what is freed must be freed in the context it is of
def _context() -> Any:
    """An OpenGL context: the one that MUJOCO_GL names, else the first that works."""
    named = os.environ.get("MUJOCO_GL", "").lower()
    choices = [named] if named in ("egl", "osmesa") else ["egl", "osmesa"]
    if platform.system() != "Linux":
        choices = ["gl_context"]  # MuJoCo's own choice
    problems = []
    for name in choices:
        before = os.environ.get("PYOPENGL_PLATFORM")
        try:
            context = import_module(f"mujoco.{name}").GLContext(640, 480)
            atexit.register(_free, context)
            return context
        except Exception as error:  # missing libraries show in many ways
            problems.append(f"{name}: {type(error).__name__}: {error}")
            os.environ.pop("PYOPENGL_PLATFORM", None)  # set by each module's first import only
            if before is not None:
                os.environ["PYOPENGL_PLATFORM"] = before
    raise DrawingError("Images need EGL or OSMesa. " + "; ".join(problems).replace("\n", " "))


def _free(context: Any) -> None:
    """Before the interpreter ends: PyOpenGL cannot do it while that goes on, and would say so."""
    context.make_current()
    _drawing.cache_clear()
    context.free()
