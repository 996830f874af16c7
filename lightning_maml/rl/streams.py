"""Streams of episodes: which runs in each, how old it is, and its random numbers."""

import numpy as np

from lightning_maml.episode import TaskBatch
from lightning_maml.rl.environment import Environment, Flags, Floats, State
from lightning_maml.rl.noise import EpisodeNoise


class Streams:
    """``n`` streams in all, `streams` for each task; where an episode ends the next may begin.

    Attributes:
        tasks: ``[n, task_size]``.
        age: ``[n]``, steps since the start of the episode.
        alive: ``[n]``, bool, whether the stream goes on.
        on: which of the streams the environment's state has: all, or the places of some.
    """

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
        self.on: slice | np.ndarray = slice(None)
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

    @property
    def all_on(self) -> bool:
        """Whether the environment has all streams."""
        return isinstance(self.on, slice)

    def everywhere(self, values: np.ndarray, elsewhere: np.ndarray) -> np.ndarray:
        """Values of the streams in `on`, and `elsewhere` ``[n, ...]`` in place of the others."""
        if self.all_on:
            return values
        full = elsewhere.copy()
        full[self.on] = values
        return full

    def leave_out(
        self, environment: Environment, state: State, observation: Floats
    ) -> tuple[State, Floats]:
        """State and observation without the streams that are over, if the environment can."""
        which = self.alive[self.on]
        fewer = environment.select(state, which)
        if fewer is None:
            return state, observation
        self.on = self.rows[self.alive]
        return fewer, observation[which]

    def _draw(self, which: Flags) -> None:
        for i in np.flatnonzero(which):
            drawn = self.source.draw(int(self.of_task[i]), int(self.number[i]))
            self.start_noise[i], self.action_noise[i] = drawn
