"""Tasks that are drawn many at a time, where drawing a batch costs more than its few numbers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from lightning_maml.episode import Episode


@dataclass
class DrawnAhead:
    """The tasks of `sampler`, of which it is asked for `tasks` consecutive ones and more.

    A task is a function of its number alone, so they are the same tasks. It pays where one reader
    takes all of them in order, not where processes share them.
    """

    sampler: Callable[[int, int], Episode]
    tasks: int
    _first: int = field(init=False, default=0, repr=False)
    _drawn: Episode | None = field(init=False, default=None, repr=False)

    def __call__(self, first_task: int, tasks: int) -> Episode:
        """Consecutive tasks, copies of those that were drawn; shapes as those of `sampler`."""
        start = first_task - self._first
        if self._drawn is None or start < 0 or start + tasks > self._drawn.tasks:
            self._first, start = first_task, 0
            self._drawn = self.sampler(first_task, max(tasks, self.tasks))
        return Episode(*(part[start : start + tasks].clone() for part in self._drawn))
