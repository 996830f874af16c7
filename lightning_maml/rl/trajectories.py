"""What acting in a batch of tasks gives: streams of episodes, several side by side in each task."""

from typing import Any, NamedTuple

from torch import Tensor


class Trajectories(NamedTuple):
    """Episodes in streams: where one ends early the next begins in its place.

    Shapes: T is the length of the longest stream.
        observations: ``[tasks, streams, T, observation_size]``, in the policy's dtype
        actions: ``[tasks, streams, T, action_size]``, as the policy drew them, in its dtype
        outputs: ``[tasks, streams, T, 2 * action_size]``, the policy's, in its dtype
        rewards: ``[tasks, streams, T]``, float64; NaN where the action was not finite
        age: ``[tasks, streams, T]``, int64, steps since the start of the episode
        last: ``[tasks, streams, T]``, bool, the last step of an episode
        valid: ``[tasks, streams, T]``, bool, false after the end of a stream, and where the action
            was not finite
        broken: ``[tasks]``, int64, episodes that could not be simulated to their end
    """

    observations: Tensor
    actions: Tensor
    outputs: Tensor
    rewards: Tensor
    age: Tensor
    last: Tensor
    valid: Tensor
    broken: Tensor

    @property
    def steps(self) -> int:
        """Number of steps in all."""
        return int(self.valid.sum())

    @property
    def first_lengths(self) -> Tensor:
        """Steps of the first episode of each stream: ``[tasks, streams]``."""
        return self.last.int().argmax(dim=-1) + 1

    @property
    def returns(self) -> Tensor:
        """Mean over the episodes of each task of the sum of rewards: ``[tasks]``, float64.

        NaN for a task whose policy gave an action that is not finite.
        """
        rewards = self.rewards.where(self.valid | self.last, 0).sum(dim=(1, 2))
        return rewards / self.last.sum(dim=(1, 2))


class Watched(NamedTuple):
    """A rollout, and what was noted of the states at its start and after each step."""

    paths: Trajectories
    noted: list[Any]
