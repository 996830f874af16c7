"""Images without a display."""

import os
import sys
import types

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="needs the extra `rl`")
pytest.importorskip("gymnasium", reason="needs the extra `rl`")

from lightning_maml.rl.environment import DrawingError
from lightning_maml.rl.envs import Ant, HalfCheetah, render


@pytest.mark.parametrize("robot", [HalfCheetah, Ant])
def test_frame_shows_the_episode_asked_for(robot) -> None:
    environment = robot("velocity", threads=1)
    noise = np.zeros((2, environment.start_size))
    noise[1, 2] = 30.0  # turned by 0.3 rad, or raised by 0.3 m
    state, _ = environment.start(np.ones((2, 1)), noise)
    try:
        level, other = (environment.frame(state, i, width=96, height=64) for i in range(2))
    except DrawingError as error:
        pytest.skip(str(error))
    assert level.shape == other.shape == (64, 96, 3)
    assert level.dtype == np.uint8
    assert level[:10].mean() > level[40:].min()  # the sky is above
    assert len(np.unique(level)) > 50
    assert (level != other).mean() > 0.05
    np.testing.assert_array_equal(level, environment.frame(state, 0, width=96, height=64))
    large = environment.frame(state, 0, width=800, height=600)  # beyond MuJoCo's default buffer
    assert abs(large.mean() - level.mean()) < 5


def test_without_any_opengl_there_is_one_clear_line(monkeypatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(render.platform, "system", lambda: "Linux")
    for name in ("egl", "osmesa"):
        monkeypatch.setitem(sys.modules, f"mujoco.{name}", types.ModuleType(name))
    monkeypatch.setenv("PYOPENGL_PLATFORM", "egl")
    with pytest.raises(RuntimeError, match="Images need EGL or OSMesa") as raised:
        render._context.__wrapped__()  # past the cache, whose context drawings belong to
    assert "\n" not in str(raised.value)


def test_a_second_try_without_a_device_says_the_same(monkeypatch) -> None:
    """MuJoCo's modules name PyOpenGL's platform where they are imported first, and only there."""
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delenv("PYOPENGL_PLATFORM", raising=False)
    monkeypatch.setattr(render.platform, "system", lambda: "Linux")
    imported = set()

    def no_device(width, height):
        raise ImportError("no device")

    def import_module(name):
        if name not in imported:
            os.environ["PYOPENGL_PLATFORM"] = name.removeprefix("mujoco.")
        imported.add(name)
        return types.SimpleNamespace(GLContext=no_device)

    monkeypatch.setattr(render, "import_module", import_module)
    said = []
    for _ in range(2):
        with pytest.raises(DrawingError, match="egl: ImportError: no device; osmesa") as raised:
            render._context.__wrapped__()
        said.append(str(raised.value))
        assert "PYOPENGL_PLATFORM" not in os.environ
    assert said[0] == said[1]
    assert imported == {"mujoco.egl", "mujoco.osmesa"}
