"""The settings that all datamodules share, as plain data checked when they are made."""

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.sampling import SPLITS, check_seed


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise ValueError unless `value` is an integer and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")


def check_split_sizes(name: str, sizes: Sequence[int]) -> None:
    """Raise ValueError unless `sizes` are three integers of at least 1."""
    if len(sizes) != len(SPLITS):
        raise ValueError(f"`{name}` must be three numbers (train, val, test), got {sizes!r}.")
    for size in sizes:
        check_at_least(name, size, 1)


@dataclass(frozen=True)
class Batches:
    """How many tasks come in a batch, in an epoch and in an evaluation.

    Attributes:
        meta_batch_size: training tasks per batch and rank
        eval_batch_size: tasks per evaluation batch; the last batch may be smaller
        train_batches_per_epoch: an epoch is only a count, its tasks never come again
        val_tasks: validation tasks over all ranks, the same at every check
        test_tasks: test (and predict) tasks over all ranks

    Raises:
        ValueError: naming the setting that is out of range.
    """

    meta_batch_size: int
    eval_batch_size: int
    train_batches_per_epoch: int
    val_tasks: int
    test_tasks: int
    seed: int
    num_workers: int

    def __post_init__(self) -> None:
        for name in (
            "meta_batch_size",
            "eval_batch_size",
            "train_batches_per_epoch",
            "val_tasks",
            "test_tasks",
        ):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("num_workers", self.num_workers, 0)
        check_seed(self.seed)


@dataclass(frozen=True)
class Shots:
    """N-way K-shot classification: classes per task, and images per class.

    Attributes:
        query_shot: query images per class in training
        eval_query_shot: the same in validation and test, None for as many as in training

    Raises:
        ValueError: naming the setting that is out of range.
    """

    n_way: int
    k_shot: int
    query_shot: int
    eval_query_shot: int | None = None

    def __post_init__(self) -> None:
        check_at_least("n_way", self.n_way, 2)
        check_at_least("k_shot", self.k_shot, 1)
        check_at_least("query_shot", self.query_shot, 1)
        if self.eval_query_shot is not None:
            check_at_least("eval_query_shot", self.eval_query_shot, 1)

    def queries(self, split: str) -> tuple[str, int]:
        """The setting that counts a split's query images per class, and its value."""
        if split == "train" or self.eval_query_shot is None:
            return "query_shot", self.query_shot
        return "eval_query_shot", self.eval_query_shot
