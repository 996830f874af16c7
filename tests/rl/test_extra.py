"""One clear line where the packages for reinforcement learning cannot be imported."""

import pytest

from lightning_maml.rl.envs.extra import rl_extra


def test_a_missing_package_is_named_with_its_remedy() -> None:
    with pytest.raises(ImportError, match=r"`nowhere`.*lightning-maml\[rl\]"), rl_extra():
        import nowhere  # type: ignore[import-not-found]  # noqa: F401


def test_a_missing_opengl_library_is_named_by_its_setting(monkeypatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(ImportError, match=r"MUJOCO_GL='osmesa'.*unset MUJOCO_GL"), rl_extra():
        None.glGetError  # type: ignore[attr-defined]  # noqa: B018


def test_other_attribute_errors_pass(monkeypatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(AttributeError, match="glGetError"), rl_extra():
        None.glGetError  # type: ignore[attr-defined]  # noqa: B018
