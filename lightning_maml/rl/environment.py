"""What an environment must be to be meta-learned on: a batch of episodes as pure functions.

A user's own environment is a subclass of `Environment`. Randomness comes in as numbers, so that the
same numbers give the same episode.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]
State = Any
"""Whatever an environment keeps of a batch of episodes; only the environment looks inside."""


def finite_rows(values: Floats) -> Flags:
    """Which rows of ``[n, m]`` are finite; mostly all are, which is seen five times faster."""
    finite: Flags = np.isfinite(values)
    if finite.all():
        return np.ones(len(values), bool)
    return np.logical_and.reduce(finite, axis=-1)


class DrawingError(RuntimeError):
    """There is no way to draw on this machine; the message says in one line what is missing."""


class Transition(NamedTuple):
    """What one step of each episode led to.

    Shapes: ``n`` episodes.
        state: opaque
        observation: ``[n, observation_size]``
        reward: ``[n]``; one that is not finite counts as 0 where the episode is broken, and is an
            error elsewhere
        ended: ``[n]``, bool: the episode is over by a rule of the environment (not by time)
        broken: ``[n]``, bool: it is over because it could not be simulated on
    """

    state: State
    observation: Floats
    reward: Floats
    ended: Flags
    broken: Flags


class Environment(ABC):
    """A family of tasks (Sec. 5.3): one Markov decision process per task vector.

    Attributes:
        observation_size, action_size: sizes of an observation and of an action
        task_size: length of a task vector (a goal, a velocity, a direction)
        start_size: how many standard normal numbers the start of an episode takes
        horizon: steps after which an episode is over in any case (H)

    To be drawn, an environment may have one or both of these methods; they leave the state as it
    is:

    - ``positions(state) -> [n, 2]``, where each episode is in the plane, if a task is the goal
      there. Runs then log figures of trajectories.
    - ``frame(state, number, width, height) -> [height, width, 3]``, uint8, episode `number` as an
      image; raises `DrawingError` where the machine cannot. For videos (`MetaPolicy`'s `render`).
    """

    observation_size: int
    action_size: int
    task_size: int
    start_size: int
    horizon: int

    @abstractmethod
    def check_tasks(self, tasks: Floats) -> None:
        """Raise ValueError, naming `tasks`, for task vectors that cannot be."""

    @abstractmethod
    def start(self, tasks: Floats, noise: Floats) -> tuple[State, Floats]:
        """State and observation of new episodes.

        Shapes: ``tasks [n, task_size]``, ``noise [n, start_size]``, standard normal; observation
        ``[n, observation_size]``.
        """

    @abstractmethod
    def restart(
        self, state: State, which: Flags, tasks: Floats, noise: Floats
    ) -> tuple[State, Floats]:
        """New episodes in place of those in `which` ``[n]``, the others as they are; as `start`.

        `tasks` and `noise` have rows for all n; those outside `which` are not looked at.
        """

    @abstractmethod
    def step(self, state: State, actions: Floats, tasks: Floats) -> Transition:
        """One step of each episode.

        `actions` ``[n, action_size]`` are on the policy's scale, where -1 and 1 are the bounds of
        what the environment can do; larger ones are clipped. `state` is not used again.
        """

    # -- optional: what makes acting faster -----------------------------------------------------

    gives_way = False
    """Whether `step` is in `turn.given_up` while it does not need Python: see `side_by_side`."""

    def select(self, state: State, which: Flags) -> State | None:
        """The state of the episodes in `which` ``[n]`` alone; None: they cannot be told apart.

        With it, episodes that are over need not be stepped until the longest is.
        """
        return None

    def side_by_side(self) -> Sequence["Environment"]:
        """Environments like this one that may be called at the same time, from different threads.

        By default this one only. One that stands there twice acts for one part of the tasks after
        the other. Their number must not depend on the machine: results may, in their last bits.
        Where they give way (`gives_way`), one thread at a time runs Python.
        """
        return (self,)
