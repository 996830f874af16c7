"""The settings that all datamodules share, as plain data checked when they are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from datamodules.sampling import SPLITS, check_seed

Count = int | tuple[int, int]  # a number, or the least and the most of what each batch draws anew


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise ValueError unless `value` is an integer and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")


def check_count(name: str, value: Count, least: int) -> None:
    """Raise ValueError unless `value` is an integer of at least `least`, or a range of such."""
    if not isinstance(value, Sequence):
        check_at_least(name, value, least)
        return
    if len(value) != 2 or value[0] > value[1]:
        raise ValueError(
            f"`{name}` must be a number or a range, [least, most], got {list(value)!r}."
        )
    for bound in value:
        check_at_least(name, bound, least)


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


class Sizes(NamedTuple):
    """Classes per task, support and query examples per class."""

    n_way: int
    k_shot: int
    query_shot: int


LEAST = Sizes(n_way=2, k_shot=1, query_shot=1)


@dataclass(frozen=True)
class Shots:
    """N-way K-shot classification: classes per task, and examples per class.

    Where one is a range, every training batch draws its own (varying_sizes.py); evaluation, whose
    tasks are to be compared, has a number.

    Attributes:
        query_shot: query examples per class in training
        eval_n_way: `n_way` in validation and test, None for that of training
        eval_k_shot: the same of `k_shot`
        eval_query_shot: the same of `query_shot`

    Raises:
        ValueError: naming the setting that is out of range, or missing beside a range.
    """

    n_way: Count
    k_shot: Count
    query_shot: Count
    eval_n_way: int | None = None
    eval_k_shot: int | None = None
    eval_query_shot: int | None = None

    def __post_init__(self) -> None:
        for name, least in LEAST._asdict().items():
            check_count(name, getattr(self, name), least)
            in_evaluation = getattr(self, f"eval_{name}")
            if in_evaluation is not None:
                check_at_least(f"eval_{name}", in_evaluation, least)
            elif not isinstance(getattr(self, name), int):
                raise ValueError(
                    f"`eval_{name}` must be given where `{name}` is a range, got None."
                )

    def setting(self, split: str, size: str) -> str:
        """The name of the setting that says `size` ("n_way", ...) for the tasks of a split."""
        in_evaluation = split != "train" and getattr(self, f"eval_{size}") is not None
        return f"eval_{size}" if in_evaluation else size

    def bounds(self, split: str) -> tuple[Sizes, Sizes]:
        """The least and the largest sizes of a split's tasks."""
        values = [getattr(self, self.setting(split, size)) for size in Sizes._fields]
        pairs = [(value, value) if isinstance(value, int) else value for value in values]
        return Sizes(*(low for low, _ in pairs)), Sizes(*(high for _, high in pairs))
