"""The robots by MuJoCo's C functions alone, one step and one episode at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium", reason="needs the extra `rl`")
mujoco = pytest.importorskip("mujoco", reason="needs the extra `rl`")

ASSETS = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
CHANGES = {
    "HalfCheetah": ("half_cheetah.xml", {
        ' settotalmass="14"': "",  # deprecated; without, it weighs 21.18 kg at a density of 1000
        "<geom conaff": f'<geom density="{1000 * 14 / 21.183717375253927}" conaff',
    }),
    "Ant": ("ant.xml", {
        'timestep="0.01"': 'timestep="0.02"',
        'ctrlrange="-1.0 1.0"': 'ctrlrange="-150 150"',
        'gear="150"': 'gear="1"',
        'margin="0.01" rgba': 'margin="0.01" solimp=".8 .8 .01" rgba',
    }),
}  # fmt: skip
STANDING = [0, 0, 0.55, 1, 0, 0, 0, 0, 1, 0, -1, 0, -1, 0, 1]


def model(robot: str) -> Any:
    """As the authors had it, by changes to the text of the file: motors of +-150 at gear 1."""
    file, changes = CHANGES[robot]
    text = (ASSETS / file).read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return mujoco.MjModel.from_xml_string(text)


def start(robot: str, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and velocities of one start."""
    initial = np.array(STANDING, float) if robot == "Ant" else np.zeros(9)
    nq = len(initial)
    qpos, qvel = initial + 0.01 * noise[:nq], 0.1 * noise[nq:]
    if robot == "Ant":
        qpos[3:7] /= np.linalg.norm(qpos[3:7])
    return qpos, qvel


def complete(robot_model: Any, qpos: np.ndarray, qvel: np.ndarray, ctrl: np.ndarray) -> Any:
    """Everything MuJoCo knows of this moment."""
    data = mujoco.MjData(robot_model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = qpos, qvel, ctrl
    mujoco.mj_forward(robot_model, data)
    mujoco.mj_subtreeVel(robot_model, data)
    mujoco.mj_rnePostConstraint(robot_model, data)
    return data


def trajectory(robot: str, noise: np.ndarray, actions: np.ndarray) -> Iterator[Any]:
    """The data of the start and after each step; actions ``[steps, nu]``, clipped to +-1."""
    robot_model, (qpos, qvel) = model(robot), start(robot, noise)
    data = mujoco.MjData(robot_model)
    data.qpos[:], data.qvel[:] = qpos, qvel
    yield complete(robot_model, qpos, qvel, data.ctrl)
    for action in np.clip(actions, -1, 1):
        data.ctrl[:] = action * (150 if robot == "Ant" else 1)
        data.qacc_warmstart[:] = 0
        mujoco.mj_step(robot_model, data)
        yield complete(robot_model, data.qpos, data.qvel, data.ctrl)


def observation(robot: str, data: Any) -> np.ndarray:
    """In the layout of the authors' code."""
    com = data.subtree_com[1]
    if robot == "HalfCheetah":
        return np.hstack([data.qpos[1:], data.qvel, com])
    contact = np.clip(data.cfrc_ext, -1, 1).ravel()
    return np.hstack([data.qpos, data.qvel, contact, data.xmat[1], com])


def reward(robot: str, task: str, goal: float, action: np.ndarray, data: Any) -> float:
    """By the table of the authors' rewards."""
    v, a = data.subtree_linvel[1, 0], np.clip(action, -1, 1)
    gain = -abs(v - goal) if task == "velocity" else goal * v
    if robot == "HalfCheetah":
        return gain - 0.05 * np.sum(a**2)
    contact = np.clip(data.cfrc_ext, -1, 1)
    alive = 1.0 if task == "velocity" else 0.0
    return gain + alive - 0.005 * np.sum(a**2) - 0.0005 * np.sum(contact**2) + 0.05
