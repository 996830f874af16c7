"""Tasks as arrays whose examples say who they are: x is (task, example), y follows from it."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import TensorTasks
from lightning_maml import Episode, MetaLearner
from tests.datamodules.test_episodic import trainer

# Python 3.12 and newer warn of any fork from a process with threads, as loader workers are.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

HERE = "tests.datamodules.test_tensor_tasks"


def numbered(task: int, examples: int) -> dict[str, np.ndarray]:
    """x ``[examples, 2]`` is (task, example), y ``[examples, 1]`` is 1000 task + example."""
    x = np.stack([np.full(examples, task), np.arange(examples)], axis=1).astype(np.float64)
    return {"x": x, "y": x @ np.array([[1000.0], [1.0]])}


def labelled(task: int, counts: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The same with shuffled class numbers, of which x has a third column."""
    labels = np.random.default_rng(task).permutation(np.repeat(np.arange(len(counts)), counts))
    x = np.concatenate([numbered(task, len(labels))["x"], labels[:, None]], axis=1)
    return {"x": x, "y": labels}


def save(path: Path, task: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **task)
    else:
        torch.save({key: torch.from_numpy(value) for key, value in task.items()}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten regression tasks of 6 to 15 examples for training, three and four for evaluation."""
    splits = {"train": range(10), "validation": range(10, 13), "test": range(13, 17)}
    for split, numbers in splits.items():
        for number in numbers:
            ending = ("npz", "pt")[number % 2]
            save(tmp_path / split / f"t{number:02}.{ending}", numbered(number, 6 + number))
    (tmp_path / "train" / ".hidden.npz").write_bytes(b"no task")
    (tmp_path / "train" / "notes.txt").write_text("no task")
    return tmp_path


def make(root: Path | None, **settings: Any) -> TensorTasks:
    small = {"k_shot": 2, "query_shot": 4, "train_batches_per_epoch": 10, "meta_batch_size": 5}
    return TensorTasks(None if root is None else str(root), **(small | settings))


def batches(loader: Any) -> list[Episode]:
    return list(loader)


def rows(episode: Episode) -> list[list[tuple[int, ...]]]:
    """The x of each task, support first, as tuples of integers."""
    together = torch.cat([episode.support_x, episode.query_x], dim=1).long().tolist()
    return [[tuple(row) for row in task] for task in together]


# -- regression --------------------------------------------------------------------------------


def test_support_and_query_are_examples_of_one_task_and_none_is_in_both(folder: Path) -> None:
    """A20; and inputs keep their targets."""
    episode = batches(make(folder).train_dataloader())[0]
    assert episode.support_x.shape == (5, 2, 2)
    assert episode.query_y.shape == (5, 4, 1)
    assert {part.dtype for part in episode} == {torch.float32}
    for task in rows(episode):
        assert len({number for number, _ in task}) == 1
        assert len(set(task)) == 6
    for x, y in (episode[:2], episode[2:]):
        assert torch.equal(x @ torch.tensor([[1000.0], [1.0]]), y)


def test_training_takes_each_task_once_in_a_pass_in_another_order(folder: Path) -> None:
    """Two batches of five are a pass over ten files; A28: no task comes twice as it was."""
    seen = batches(make(folder).train_dataloader())
    passes = [[task[0][0] for e in seen[i : i + 2] for task in rows(e)] for i in range(0, 10, 2)]
    assert all(sorted(of_pass) == list(range(10)) for of_pass in passes)
    assert len({tuple(of_pass) for of_pass in passes}) == 5
    drawn = [tuple(task) for episode in seen for task in rows(episode)]
    assert len(set(drawn)) == len(drawn)


def test_every_example_turns_up(folder: Path) -> None:
    """A27: in support and in query."""
    data = make(folder, train_batches_per_epoch=200)
    support, query = set(), set()
    for episode in data.train_dataloader():
        support |= {tuple(row) for row in episode.support_x.view(-1, 2).long().tolist()}
        query |= {tuple(row) for row in episode.query_x.view(-1, 2).long().tolist()}
    assert support == query == {(t, i) for t in range(10) for i in range(6 + t)}


def test_evaluation_takes_each_file_once_or_as_often_as_asked(folder: Path) -> None:
    data = make(folder, eval_batch_size=3)
    first, again = (batches(data.test_dataloader()) for _ in range(2))
    assert [e.tasks for e in first] == [3, 1]
    assert [task[0][0] for e in first for task in rows(e)] == [13, 14, 15, 16]
    for one, same in zip(first, again, strict=True):
        assert all(map(torch.equal, one, same))
    more = [rows(e) for e in make(folder, val_tasks=7).val_dataloader()]
    together = [task for tasks in more for task in tasks]
    assert [task[0][0] for task in together] == [10, 11, 12, 10, 11, 12, 10]
    assert together[0] != together[3]


def test_a_file_may_say_what_is_support_and_what_query(tmp_path: Path) -> None:
    """Examples 0 .. 2 of each task are support, 3 .. 9 are query."""
    for number in range(3):
        both = numbered(number, 10)
        parts = {"support": slice(3), "query": slice(3, 10)}
        named = {f"{p}_{key}": both[key][at] for p, at in parts.items() for key in both}
        save(tmp_path / "test" / f"{number}.npz", named)
    (episode,) = make(tmp_path, k_shot=3, eval_query_shot=5).test_dataloader()
    for task in rows(episode):
        numbers = [number for _, number in task]
        assert set(numbers[:3]) == {0, 1, 2}
        assert len(set(numbers[3:])) == 5
        assert set(numbers[3:]) <= set(range(3, 10))


def test_sizes_may_vary_from_batch_to_batch(folder: Path) -> None:
    data = make(folder, k_shot=(1, 2), query_shot=(2, 4), eval_k_shot=2, eval_query_shot=3)
    shapes = {
        (e.support_x.shape[:2], e.query_x.shape[:2]) for e in batches(data.train_dataloader())
    }
    assert 2 < len(shapes) <= 6
    assert {s[0][1] for s in shapes} == {1, 2}
    (validation,) = data.val_dataloader()
    assert (validation.support_x.shape[1], validation.query_x.shape[1]) == (2, 3)


@pytest.mark.parametrize(
    ("given", "became"),
    [
        (np.float16, torch.float32),
        (np.int32, torch.int64),
        (np.uint8, torch.uint8),
        (bool, torch.float32),
    ],
)
def test_inputs_of_any_type_and_shape(tmp_path: Path, given: Any, became: torch.dtype) -> None:
    values = np.arange(8 * 3 * 2).reshape(8, 3, 2) % 2
    save(tmp_path / "test" / "a.npz", {"x": values.astype(given), "y": np.ones((8, 3, 1))})
    (episode,) = make(tmp_path).test_dataloader()
    assert episode.query_x.dtype == became
    assert episode.query_x.shape == (1, 4, 3, 2)
    assert episode.query_y.shape == (1, 4, 3, 1)


# -- classification ----------------------------------------------------------------------------


def test_each_class_comes_as_often_as_it_should_under_its_own_number(tmp_path: Path) -> None:
    """A19 without `relabel`."""
    for number in range(4):
        save(tmp_path / "train" / f"{number}.npz", labelled(number, (6, 9, 7)))
    for episode in make(tmp_path, n_way=3).train_dataloader():
        for x, y, shots in ((*episode[:2], 2), (*episode[2:], 4)):
            assert torch.equal(x[..., 2].long(), y)
            assert all(Counter(task.tolist()) == dict.fromkeys(range(3), shots) for task in y)
        assert all(len(set(task)) == 18 for task in rows(episode))


def test_relabelled_classes_are_any_of_the_task_under_any_number(tmp_path: Path) -> None:
    """A18, A19, A21: each (class, number) of 5 classes and 3 numbers in a fifth of the tasks."""
    save(tmp_path / "test" / "a.npz", labelled(0, (6, 6, 7, 8, 6)))
    data = make(tmp_path, n_way=3, relabel=True, test_tasks=1000, eval_batch_size=1000)
    (episode,) = data.test_dataloader()
    pairs: Counter[tuple[int, int]] = Counter()
    for task in range(1000):
        assert Counter(episode.support_y[task].tolist()) == dict.fromkeys(range(3), 2)
        assert Counter(episode.query_y[task].tolist()) == dict.fromkeys(range(3), 4)
        meanings = {
            (int(row[2]), label)
            for x, y in (episode[:2], episode[2:])
            for row, label in zip(x[task].tolist(), y[task].tolist(), strict=True)
        }
        assert len(meanings) == len({c for c, _ in meanings}) == 3
        pairs.update(meanings)
    assert len(pairs) == 15
    assert all(abs(count - 200) < 5 * 160**0.5 for count in pairs.values())


def test_labels_of_any_integer_type_are_the_same(tmp_path: Path) -> None:
    """A30, from files; float class numbers are refused by file and type."""
    seen = []
    for kind in (np.int32, np.uint8, np.int64):
        task = labelled(0, (6, 6))
        save(tmp_path / kind.__name__ / "test" / "a.npz", task | {"y": task["y"].astype(kind)})
        seen += batches(make(tmp_path / kind.__name__, n_way=2).test_dataloader())
    assert all(map(torch.equal, seen[0], seen[1]))
    assert all(map(torch.equal, seen[0], seen[2]))
    assert seen[0].query_y.dtype == torch.int64
    save(tmp_path / "float" / "test" / "a.npz", task | {"y": task["y"][:, None] * 1.0})
    with pytest.raises(ValueError, match=r"a\.npz: `y` must be integer .* got torch\.float32"):
        make(tmp_path / "float", n_way=2).setup()


# -- a function --------------------------------------------------------------------------------


def line(seed: int) -> dict[str, np.ndarray]:
    """A line through a random point, ten points on it."""
    rng = np.random.default_rng(seed)
    slope, x = rng.uniform(-1, 1, 2), rng.uniform(-1, 1, (10, 1))
    return {"x": x, "y": slope[0] + slope[1] * x}


def no_task(seed: int) -> list[int]:
    return [seed]


NO_FUNCTION = 3


def test_tasks_of_a_function_are_the_same_whoever_draws_them() -> None:
    """A29: for 0, 1 and 2 workers, all different, and others for validation and another seed."""
    settings = {"make_task": f"{HERE}.line", "val_tasks": 50, "eval_batch_size": 50}
    runs = [batches(make(None, **settings, num_workers=n).train_dataloader()) for n in (0, 1, 2)]
    for other in runs[1:]:
        for one, same in zip(runs[0], other, strict=True):
            assert all(map(torch.equal, one, same))
    seen = [task.numpy().tobytes() for episode in runs[0] for task in episode.support_x]
    for data in (make(None, **settings), make(None, **settings, seed=1)):
        (episode,) = data.val_dataloader()
        seen += [task.numpy().tobytes() for task in episode.support_x]
    assert len(set(seen)) == len(seen) == 150


def test_a_learner_trains_on_it() -> None:
    learner = MetaLearner(torch.nn.Linear(1, 1), loss="mse", inner_lr=0.1)
    data = make(None, make_task=f"{HERE}.line", val_tasks=20)
    trainer(max_steps=40, max_epochs=-1).fit(learner, datamodule=data)
    (episode,) = make(None, make_task=f"{HERE}.line", test_tasks=4).test_dataloader()
    curve = learner.evaluate(episode)
    assert curve.loss[1].mean() < curve.loss[0].mean()


# -- what is refused ---------------------------------------------------------------------------

GOOD = numbered(0, 9)
FAULTS: list[tuple[str, dict[str, Any], str]] = [
    ("no y", {"x": GOOD["x"]}, r"must hold `x` and `y`, or .*: no `y` in x\."),
    ("no query", {"support_x": GOOD["x"]}, "no `support_y` in support_x"),
    ("lengths", GOOD | {"y": GOOD["y"][:8]}, "the same number of examples.* got 9 and 8"),
    ("empty", {"x": GOOD["x"][:0], "y": GOOD["y"][:0]}, "at least one, got 0 and 0"),
    ("nan", GOOD | {"x": GOOD["x"] * np.nan}, "`x` must be finite"),
    ("flat y", GOOD | {"y": GOOD["y"][:, 0]}, r"must be \[examples, outputs\] if it holds floats"),
    ("number", GOOD | {"y": np.array(1.0)}, r"`y` must be real numbers \[examples, ...\]"),
    ("text", GOOD | {"x": np.array(["a"] * 9)}, "`x` must be an array of numbers"),
    ("small", numbered(0, 5), r"`k_shot` \+ `query_shot` must be at most 5 \(its examples\)"),
    ("wide", GOOD | {"x": np.ones((9, 3))}, r"examples like those of .*a\.npz, `x` float32 "),
    ("objects", GOOD | {"x": np.array([{}] * 9)}, "cannot read the task .*allow_pickle"),
]


@pytest.mark.parametrize(
    ("content", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_a_file_that_is_not_as_it_should_be_is_named(
    tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    """A22: at setup."""
    save(tmp_path / "train" / "a.npz", numbered(1, 9))
    save(tmp_path / "train" / "b.npz", content)
    with pytest.raises(ValueError, match=message) as error:
        make(tmp_path).setup()
    assert str(tmp_path / "train" / "b.npz") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", ["npz", "pt"])
def test_a_file_that_is_cut_off_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "train" / f"a.{ending}"
    save(path, GOOD)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"cannot read the task .*a\.{ending}"):
        make(tmp_path).setup()


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return (open, (str(tmp_path / "written"), "w"))  # type: ignore[return-value]

    (tmp_path / "train").mkdir()
    torch.save({"x": Evil()}, tmp_path / "train" / "a.pt")
    with pytest.raises(ValueError, match=r"cannot read the task .*a\.pt"):
        make(tmp_path).setup()
    assert not (tmp_path / "written").exists()


def test_the_same_task_in_two_splits_is_refused(folder: Path) -> None:
    save(folder / "test" / "copy.npz", numbered(4, 10))
    with pytest.raises(ValueError, match=r"train and test .*/train/t04\.npz and .*/test/copy\.npz"):
        make(folder).setup()


@pytest.mark.parametrize(
    ("counts", "settings", "message"),
    [
        ((6, 5), {"n_way": 2}, r"at most 5 \(examples of its smallest class\), got 2 \+ 4 = 6"),
        ((6, 6, 6), {"n_way": 2}, r"`y` must hold all class numbers 0 \.\. 1 .* got \[0, 1, 2\]"),
        ((6, 6), {"n_way": 3, "relabel": True}, r"`n_way` must be at most 2 \(its classes\)"),
    ],
)
def test_classes_that_do_not_fit_are_named(
    tmp_path: Path, counts: tuple[int, ...], settings: dict[str, Any], message: str
) -> None:
    save(tmp_path / "val" / "a.npz", labelled(0, counts))
    with pytest.raises(ValueError, match=r"the task .*a\.npz.*" + message):
        make(tmp_path, **settings).setup()


def test_support_and_query_of_a_file_must_have_the_same_classes(tmp_path: Path) -> None:
    """A19: else a label would mean one class in support and another in query."""
    support, query = labelled(0, (6, 6, 6)), labelled(1, (6, 6, 6))
    named = {f"support_{k}": v for k, v in support.items()}
    named |= {f"query_{k}": v + (k == "y") for k, v in query.items()}
    save(tmp_path / "test" / "a.npz", named)
    message = r"a\.npz: `support_y` and `query_y` must .* got \[0, 1, 2\] and \[1, 2, 3\]"
    with pytest.raises(ValueError, match=message):
        make(tmp_path, n_way=2, relabel=True).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one of `root` and `make_task` must be given, got None and None"),
        ({"make_task": "nowhere.f"}, "`make_task` must be the import path .* got 'nowhere.f'"),
        ({"make_task": "line"}, "`make_task` must be the import path .* got 'line'"),
        ({"make_task": f"{HERE}.NO_FUNCTION"}, "`make_task` must lead to a function"),
        ({"make_task": f"{HERE}.no_task"}, r"no_task\(\d+\) must hold `x` and `y`.* in list"),
        ({"make_task": f"{HERE}.line", "k_shot": 7}, r"line\(\d+\): .* at most 10 .* 7 \+ 4 = 11"),
        ({"make_task": f"{HERE}.line", "relabel": True}, "`n_way` must be given where"),
        ({"make_task": f"{HERE}.line", "n_way": 1}, "`n_way` must be an integer of at least 2"),
        (
            {"make_task": f"{HERE}.line", "n_way": (2, 3), "eval_n_way": 2},
            r"`n_way` must be one number without `relabel`, got \[2, 3\]",
        ),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batches(make(None, **settings).train_dataloader())


def test_no_folder_and_no_files(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    there = rf"root` must be a folder .*not there \(folders in {re.escape(str(tmp_path))}: tasks\)"
    with pytest.raises(FileNotFoundError, match=there):
        make(tmp_path / "nothing" / "below").setup()
    with pytest.raises(ValueError, match=r"no tasks in .*: expected folders train/"):
        make(tmp_path).setup()
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"no tasks in .*train: expected files \.npz or \.pt"):
        make(tmp_path).setup()
