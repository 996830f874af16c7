"""Tasks of one's own as arrays: vectors, sequences, any shape; regression or classification."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from datamodules.class_folders import SPLIT_NAMES, none_at
from datamodules.episode_loader import TaskSampler
from datamodules.episodic import EpisodicDataModule
from datamodules.import_path import imported
from datamodules.sampling import SPLITS
from datamodules.settings import LEAST, Batches, Count, Shots, Sizes
from datamodules.task_arrays import READERS, TaskArrays, check_alike, read_task
from datamodules.task_drawing import (
    ArrayTasks,
    TasksInOrder,
    TasksMade,
    TaskSource,
    TasksShuffled,
)
from datamodules.varying_sizes import VaryingTasks
from lightning_maml.argument_types import check_types


@final
class TensorTasks(EpisodicDataModule):
    """Tasks in files, one each, or from a function.

    A task is `x` ``[examples, ...]`` and `y` ``[examples, ...]``, from which support and query
    examples are drawn, without one in both, whenever the task comes; or `support_x`, `support_y`,
    `query_x` and `query_y`, and each part is drawn from its own. Float targets are regression
    (``[examples, outputs]``), integers class numbers (``[examples]``). Tasks may have different
    numbers of examples, of the same shape; a batch takes the same number of each.

    Training goes through the files in passes, each shuffled anew; evaluation in order of their
    names. All are read at setup and kept in memory.

    Args:
        root: a folder with train/, val/ (or validation/) and test/, in each a file per task, `.npz`
            or `.pt` (a dict of tensors). A split may be missing if nothing asks for its tasks
        make_task: instead, the import path of a function that takes a seed (an integer) and
            returns a dict of arrays; the seed follows from `seed`, the split and the task's number
        n_way: for classification with `k_shot` examples of each class: how many classes. None:
            `k_shot` and `query_shot` count all examples of a task
        k_shot: support examples per task (or class); a range, [5, 20], for a number that every
            training batch draws anew
        query_shot: query examples per training task (or class), or a range
        eval_n_way: `n_way` in validation and test, None for that of training (if it is no range)
        eval_k_shot: the same of `k_shot`
        eval_query_shot: the same of `query_shot`
        relabel: draw `n_way` of a task's classes and number them in random order, for labels that
            mean another thing in each task; without it a task's labels are 0 .. n_way - 1
        meta_batch_size: training tasks per batch (and process)
        eval_batch_size: tasks per evaluation batch
        train_batches_per_epoch: length of an epoch
        val_tasks: fixed validation tasks; None: each file once, 200 of a function
        test_tasks: fixed test tasks; None: each file once, 600 of a function
        seed: tasks are a function of (seed, split, task number) alone
        num_workers: loader processes

    Raises:
        ValueError: naming the setting that is out of range.
    """

    def __init__(
        self,
        root: str | None = None,
        make_task: str | None = None,
        n_way: Count | None = None,
        k_shot: Count = 10,
        query_shot: Count = 10,
        eval_n_way: int | None = None,
        eval_k_shot: int | None = None,
        eval_query_shot: int | None = None,
        relabel: bool = False,
        meta_batch_size: int = 4,
        eval_batch_size: int = 4,
        train_batches_per_epoch: int = 500,
        val_tasks: int | None = None,
        test_tasks: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_types(TensorTasks.__init__, locals())
        wanted = {"val": val_tasks, "test": test_tasks}
        super().__init__(
            Batches(
                meta_batch_size=meta_batch_size,
                eval_batch_size=eval_batch_size,
                train_batches_per_epoch=train_batches_per_epoch,
                val_tasks=200 if val_tasks is None else val_tasks,
                test_tasks=600 if test_tasks is None else test_tasks,
                seed=seed,
                num_workers=num_workers,
            )
        )
        self.save_hyperparameters()
        if (root is None) == (make_task is None):
            raise ValueError(
                f"one of `root` and `make_task` must be given, got {root!r} and {make_task!r}."
            )
        if n_way is None and (relabel or eval_n_way is not None):
            raise ValueError("`n_way` must be given where `relabel` or `eval_n_way` is, got None.")
        ways = LEAST.n_way if n_way is None else n_way
        shots = Shots(ways, k_shot, query_shot, eval_n_way, eval_k_shot, eval_query_shot)
        self.by_class, self.relabel = n_way is not None, relabel
        self.bounds = {split: _grouped(shots.bounds(split), self.by_class) for split in SPLITS}
        if self.by_class:
            self.shots = shots
            _check_ways(self.bounds, relabel)
        self.root = None if root is None else Path(root).expanduser()
        self.make_task = make_task
        self.each_once = [f"{split}_tasks" for split, n in wanted.items() if n is None]

    def load_tasks(self) -> dict[str, TaskSampler]:
        """One sampler for each split that is there.

        Raises:
            FileNotFoundError: if `root` is no folder.
            ValueError: naming the file that is not as it should be, or the function.
        """
        seed = self.batches.seed
        if self.make_task is not None:
            make = _imported(self.make_task)
            return {
                split: self._sampler_of(split, TasksMade(make, self.make_task, seed, split))
                for split in SPLITS
            }
        assert self.root is not None
        splits = read_splits(self.root)
        counts = {f"{split}_tasks": len(tasks) for split, tasks in splits.items()}
        once = {name: counts[name] for name in self.each_once if name in counts}
        self.batches = replace(self.batches, **once)
        samplers: dict[str, TaskSampler] = {}
        for split, tasks in splits.items():
            in_order = TasksInOrder(tasks)
            source = TasksShuffled(tasks, seed, split) if split == "train" else in_order
            samplers[split] = self._sampler_of(split, source)
            for task in tasks:  # too small ones are named now, not when they come
                self._array_tasks(split, in_order).grouped(task)
        return samplers

    def _array_tasks(self, split: str, source: TaskSource) -> ArrayTasks:
        most = self.bounds[split][1]
        return ArrayTasks(source, self.batches.seed, split, most, self.by_class, self.relabel)

    def _sampler_of(self, split: str, source: TaskSource) -> TaskSampler:
        sampler, (least, most) = self._array_tasks(split, source), self.bounds[split]
        return sampler if least == most else VaryingTasks(sampler, sampler.seed, split, least)


def _grouped(bounds: tuple[Sizes, Sizes], by_class: bool) -> tuple[Sizes, Sizes]:
    """Examples of a task that are not counted by class are one group."""
    least, most = bounds
    return bounds if by_class else (least._replace(n_way=1), most._replace(n_way=1))


def _check_ways(bounds: Mapping[str, tuple[Sizes, Sizes]], relabel: bool) -> None:
    ways = sorted({sizes.n_way for both in bounds.values() for sizes in both})
    if len(ways) > 1 and not relabel:
        raise ValueError(f"`n_way` must be one number without `relabel`, got {ways}.")


def read_splits(root: Path) -> dict[str, list[TaskArrays]]:
    """The tasks in the files of each split's folder, in order of their names.

    Raises:
        FileNotFoundError: if `root` is no folder.
        ValueError: naming the folder or the file that is not as it should be.
    """
    if not root.is_dir():
        raise FileNotFoundError(
            "`root` must be a folder with train/, val/ and test/, each with a file per task, got "
            f"{none_at(root)}."
        )
    splits: dict[str, list[TaskArrays]] = {}
    for split, names in SPLIT_NAMES.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is None:
            continue
        files = [
            path
            for path in sorted(folder.iterdir())
            if path.suffix in READERS and not path.name.startswith(".")
        ]
        if not files:
            raise ValueError(f"no tasks in {folder}: expected files {' or '.join(READERS)}.")
        splits[split] = [read_task(path) for path in files]
    if not splits:
        raise ValueError(f"no tasks in {root}: expected folders train/, val/ and test/.")
    check_alike(task for tasks in splits.values() for task in tasks)
    _check_disjoint(splits)
    return splits


def _check_disjoint(splits: Mapping[str, Sequence[TaskArrays]]) -> None:
    seen: dict[bytes, tuple[str, str]] = {}
    for split, tasks in splits.items():
        for task in tasks:
            other, name = seen.setdefault(task.digest(), (split, task.name))
            if other != split:
                raise ValueError(
                    f"the splits {other} and {split} must have different tasks, got the same "
                    f"arrays in {name} and {task.name}."
                )


def _imported(path: str) -> Callable[[int], object]:
    found = imported(path, "`make_task` must be the import path of a function of a seed")
    if not callable(found):
        raise ValueError(f"`make_task` must lead to a function, got {path!r}, {found!r}.")
    return found
