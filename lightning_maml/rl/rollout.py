"""Acting: trajectories of a policy per task, in all tasks at once (Alg. 3, lines 5 and 8)."""

from collections.abc import Callable
from itertools import count

import numpy as np
import torch
from torch import Tensor

from lightning_maml.episode import TaskBatch
from lightning_maml.rl.environment import Environment, Flags, Floats
from lightning_maml.rl.noise import EpisodeNoise
from lightning_maml.rl.trajectories import Trajectories

Policies = Callable[[Tensor], Tensor]
"""Observations of all tasks to outputs: ``[tasks, n, observation_size] -> [tasks, n, 2A]``."""


class _Streams:
    """Which episode runs in each stream, how old it is, and its noise; ``n`` streams in all."""

    def __init__(self, environment: Environment, batch: TaskBatch, streams: int, inner_step: int):
        self.tasks = np.repeat(batch.task.double().numpy(), streams, axis=0)
        self.of_task = np.repeat(np.arange(len(batch.task)), streams)
        self.streams, self.n = streams, len(self.tasks)
        sizes = environment.start_size, environment.action_size, environment.horizon
        self.source = EpisodeNoise(batch.key.numpy(), inner_step, *sizes)
        self.start_noise = np.empty((self.n, sizes[0]), np.float32)
        self.action_noise = np.empty((self.n, sizes[2], sizes[1]), np.float32)
        self.number = np.tile(np.arange(streams), len(batch.task))
        self.age = np.zeros(self.n, np.int64)
        self.alive = np.ones(self.n, bool)
        self.rows = np.arange(self.n)
        self._draw(self.alive)

    def begin(self, which: Flags) -> None:
        """The next episode of each stream in `which`."""
        self.number[which] += self.streams
        self.age[which] = 0
        self._draw(which)

    def noise(self) -> Floats:
        """For the actions of this step, ``[n, action_size]``."""
        last = self.action_noise.shape[1] - 1  # streams that are over take any
        return self.action_noise[self.rows, np.minimum(self.age, last)]

    def _draw(self, which: Flags) -> None:
        for i in np.flatnonzero(which):
            drawn = self.source.draw(int(self.of_task[i]), int(self.number[i]))
            self.start_noise[i], self.action_noise[i] = drawn


@torch.no_grad()
def sample(
    environment: Environment,
    policies: Policies,
    batch: TaskBatch,
    streams: int,
    inner_step: int = 0,
) -> Trajectories:
    """Trajectories of each task's policy in its task.

    `streams` episodes run side by side in each task. Where one ends before the horizon, the next
    begins in its place as long as the stream is shorter than the horizon; each episode that began
    is run to its end. So every task gives at least ``streams * horizon`` steps, and no episode is
    in or out because of its own length. An action that is not finite breaks its episode off; that
    step is not valid, and its reward is NaN.

    Args:
        environment: what to act in.
        policies: outputs for observations on this process's CPU; actions have their dtype.
        batch: the tasks; all random numbers follow from their keys.
        streams: episodes side by side in each task.
        inner_step: number of updates behind the policies: rollouts after another number of
            updates take fresh random numbers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the environment's own threads have the cores
    try:
        return _sample(environment, policies, batch, streams, inner_step)
    finally:
        torch.set_num_threads(threads)


def _sample(
    environment: Environment, policies: Policies, batch: TaskBatch, streams: int, inner_step: int
) -> Trajectories:
    run = _Streams(environment, batch, streams, inner_step)
    tasks, horizon = len(batch.task), environment.horizon
    state, observation = environment.start(run.tasks, run.start_noise)
    broken = np.zeros(run.n, np.int64)
    steps = []
    for t in count():
        seen = torch.tensor(observation)
        output = policies(seen.view(tasks, streams, -1)).view(run.n, -1)
        mean, log_std = output.numpy().reshape(run.n, 2, -1).swapaxes(0, 1)
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is `lost`
            action = mean + np.exp(log_std) * run.noise()
        lost = ~np.isfinite(action).all(axis=-1)
        acted = np.where(lost[:, None], np.float32(0), action)
        state, observation, reward, ended, failed = environment.step(state, acted, run.tasks)
        failed = (failed | lost) & run.alive
        broken += failed
        last = run.alive & (ended | failed | (run.age + 1 >= horizon))
        output = torch.where(torch.from_numpy(lost)[:, None], torch.zeros(()), output)
        reward = np.where(lost, np.nan, reward)
        steps.append((seen.to(output), acted, output, reward, run.age.copy(), last,
                      run.alive & ~lost))  # fmt: skip
        run.age += 1
        again = last & (t + 1 < horizon)
        run.alive &= ~last | again
        if not run.alive.any():
            break
        if again.any():
            run.begin(again)
            state, observation = environment.restart(state, again, run.tasks, run.start_noise)
    columns = [_stacked(column, tasks, streams) for column in zip(*steps, strict=True)]
    columns.append(torch.from_numpy(broken.reshape(tasks, streams).sum(axis=1)))
    return Trajectories(*columns)


def _stacked(steps: tuple[Tensor | np.ndarray, ...], tasks: int, streams: int) -> Tensor:
    stacked = torch.stack([torch.as_tensor(step) for step in steps], dim=1)
    return stacked.view(tasks, streams, len(steps), *stacked.shape[2:])
