"""Sinusoid tasks (Sec. 5.1)."""

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from datamodules import Sinusoid
from lightning_maml.fingerprint import fingerprint, task_digests


def test_shapes_of_training_and_evaluation() -> None:
    data = Sinusoid(k_shot=5, query_shot=7, val_tasks=150)
    train = next(iter(data.train_dataloader()))
    assert [t.shape for t in train] == [(25, 5, 1)] * 2 + [(25, 7, 1)] * 2
    assert {t.dtype for t in train} == {torch.float32}
    first, last = data.val_dataloader()
    assert first.query_x.shape == (100, 100, 1)
    assert last.support_x.shape == (50, 5, 1)
    assert sum(episode.tasks for episode in data.test_dataloader()) == 600


def test_points_lie_on_the_sinusoid_of_their_task() -> None:
    tasks = Sinusoid().samplers["train"]
    amplitude, phase = (torch.from_numpy(p)[:, None, None] for p in tasks.parameters(40, 25))
    episode = tasks(40, 25)
    for x, y in (episode[:2], episode[2:]):
        torch.testing.assert_close(
            y.double(), amplitude * torch.sin(x.double() - phase), rtol=0, atol=1e-6
        )


def test_ranges_are_the_papers() -> None:
    tasks = Sinusoid().samplers["train"]
    amplitude, phase = tasks.parameters(0, 20_000)
    x = torch.cat(tasks(0, 20_000)[::2], dim=1).numpy()
    for values, low, high in (
        (amplitude, 0.1, 5.0),
        (phase, 0.0, math.pi),
        (x, -5.0, 5.0),
    ):
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high
        assert np.mean(values) == pytest.approx((low + high) / 2, abs=0.05)


def test_a_test_task_keeps_its_sinusoid_for_every_k() -> None:
    few, many = (Sinusoid(k_shot=k).samplers["test"].parameters(0, 600) for k in (5, 20))
    np.testing.assert_array_equal(few, many)


def test_numbers_of_points_may_vary_from_batch_to_batch() -> None:
    """Each batch has the first points of the very tasks that have the most."""
    settings = {"meta_batch_size": 2, "train_batches_per_epoch": 60, "test_tasks": 3}
    varying = Sinusoid(k_shot=(2, 4), query_shot=(5, 6), eval_k_shot=3, **settings)
    largest = Sinusoid(k_shot=4, query_shot=6, **settings)
    seen = set()
    pairs = zip(varying.train_dataloader(), largest.train_dataloader(), strict=True)
    for few, most in pairs:
        seen.add((few.support_x.shape[1], few.query_x.shape[1]))
        for part, whole in zip(few, most, strict=True):
            assert torch.equal(part, whole[:, : part.shape[1]])
        assert few.support_y.shape == few.support_x.shape
        assert few.query_y.shape == few.query_x.shape
    assert seen == {(k, q) for k in (2, 3, 4) for q in (5, 6)}
    (episode,) = varying.test_dataloader()
    assert (episode.support_x.shape, episode.query_x.shape) == ((3, 3, 1), (3, 100, 1))


def test_a_range_needs_a_number_for_evaluation() -> None:
    with pytest.raises(ValueError, match="`eval_k_shot` must be given where `k_shot` is a range"):
        Sinusoid(k_shot=(5, 10))


def test_the_oracles_tasks_are_the_same_with_amplitude_and_phase_in_the_input() -> None:
    plain, oracle = Sinusoid(), Sinusoid(task_in_input=True)
    for split in ("train", "val", "test"):
        without, with_task = plain.samplers[split](40, 3), oracle.samplers[split](40, 3)
        amplitude, phase = (torch.from_numpy(p) for p in plain.samplers[split].parameters(40, 3))
        for x, x3 in ((without.support_x, with_task.support_x), (without[2], with_task[2])):
            assert x3.shape == (3, x.shape[1], 3)
            assert x3.dtype == torch.float32
            assert torch.equal(x3[..., :1], x)
            assert torch.equal(x3[..., 1], amplitude.float()[:, None].expand(x.shape[:2]))
            assert torch.equal(x3[..., 2], phase.float()[:, None].expand(x.shape[:2]))
        assert torch.equal(without.support_y, with_task.support_y)
        assert torch.equal(without.query_y, with_task.query_y)


def test_tasks_are_those_of_earlier_versions() -> None:
    """A change of the numbers would silently change every result."""
    episode = Sinusoid(seed=0).samplers["test"](0, 2)
    expected = [1.351508378982544, -0.6585851907730103, -0.8803328275680542, -0.09894557297229767]
    found = [part[1, 0, 0].item() for part in episode]
    assert found == expected


def test_all_tasks_differ() -> None:
    episodes = list(Sinusoid().test_dataloader())
    assert len({y.numpy().tobytes() for e in episodes for y in e.support_y}) == 600


def test_a_batch_costs_little() -> None:
    """A run has 70,000 batches: one must cost less than half of drawing its tasks in a loop, on
    whatever machine.
    """
    loader = Sinusoid(train_batches_per_epoch=200).train_dataloader()

    def batches() -> None:
        for _ in loader:
            pass

    def loops() -> None:
        for _ in range(200 * 25):
            amplitude, phase = torch.rand(2)
            x = torch.rand(20, 1) * 10 - 5
            torch.sin(x - phase) * amplitude

    def seconds(work: Callable[[], None]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    pairs = [(seconds(batches), seconds(loops)) for _ in range(5)]
    batch, loop = (min(column) for column in zip(*pairs, strict=True))
    assert batch < 0.5 * loop, (batch, loop)


@pytest.mark.parametrize(
    ("k_shot", "published"),
    [(5, "54588e1c52f60d5c"), (10, "a4326adf1f620097"), (20, "8e9faea0b20b1400")],
)
def test_tasks_are_those_of_published_results(k_shot, published) -> None:
    """The fingerprints are those of docs/results.md."""
    episodes = Sinusoid(k_shot=k_shot).test_dataloader()
    assert fingerprint(torch.cat([task_digests(episode) for episode in episodes])) == published


@pytest.mark.parametrize("split", ["val", "test"])
def test_support_range_moves_the_support_points_of_evaluation_only(split) -> None:
    half, whole = (Sinusoid(support_range=bounds) for bounds in ((0.0, 5.0), None))
    moved, usual = (data.samplers[split](0, 600) for data in (half, whole))
    assert 0 <= moved.support_x.min() < 0.1
    assert 4.9 < moved.support_x.max() <= 5
    assert torch.equal(moved.query_x, usual.query_x)
    amplitude, phase = (
        torch.from_numpy(p)[:, None, None] for p in half.samplers[split].parameters(0, 600)
    )
    expected = amplitude * torch.sin(moved.support_x.double() - phase)
    torch.testing.assert_close(moved.support_y.double(), expected, rtol=0, atol=1e-6)
    training = (data.samplers["train"](0, 25) for data in (half, whole))
    assert all(torch.equal(*parts) for parts in zip(*training, strict=True))


@pytest.mark.parametrize("bounds", [(-6.0, 0.0), (0.0, 5.5), (3.0, 1.0), (0.0,), (0.0, math.nan)])
def test_support_range_must_lie_in_x_range(bounds) -> None:
    with pytest.raises(ValueError, match=r"`support_range` must"):
        Sinusoid(support_range=bounds)
