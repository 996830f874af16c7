"""All random numbers of an episode follow from (seed, split, task, inner step, trajectory)."""

import numpy as np

from lightning_maml.rl.environment import Floats


class EpisodeNoise:
    """Standard normal numbers for the start and the actions of episodes.

    Args:
        keys: ``[tasks, 3]``, integers, see `TaskBatch`.
        inner_step: which rollout of the task it is; the same number gives the same noise.
        start_size: numbers that a start takes.
        action_size: numbers that an action takes.
        horizon: actions of an episode.
    """

    def __init__(
        self, keys: Floats, inner_step: int, start_size: int, action_size: int, horizon: int
    ) -> None:
        self.keys, self.inner_step = keys.astype(np.uint64), inner_step
        self.start_size, self.actions = start_size, (horizon, action_size)
        # One generator set anew for each episode: making one takes as long as drawing with it.
        self._philox = np.random.Philox(0)
        self._state = self._philox.state  # as new: nothing drawn, nothing in its buffers
        self._generator = np.random.Generator(self._philox)

    def draw(self, task: int, trajectory: int) -> tuple[Floats, Floats]:
        """Noise of one episode: ``[start_size]`` and ``[horizon, action_size]``, float32."""
        seed, split, number = self.keys[task]
        # Philox' counter has four words; the lowest counts on within the episode.
        counter = np.array([0, self.inner_step, trajectory, number], dtype=np.uint64)
        key = np.array([seed, split], dtype=np.uint64)
        self._philox.state = self._state | {"state": {"counter": counter, "key": key}}
        start = self._generator.standard_normal(self.start_size, dtype=np.float32)
        return start, self._generator.standard_normal(self.actions, dtype=np.float32)
