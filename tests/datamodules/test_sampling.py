"""Tasks as a pure function of (seed, split, task), and choices without repetition."""

import numpy as np
import pytest

from datamodules.sampling import choose_distinct, uniforms


@pytest.mark.parametrize("draws", [1, 4, 7, 22])
def test_any_partition_of_the_tasks_gives_the_same_numbers(draws: int) -> None:
    whole = uniforms(3, "train", 0, 60, draws)
    for size in (1, 7, 60):
        parts = [
            uniforms(3, "train", first, min(size, 60 - first), draws)
            for first in range(0, 60, size)
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_seeds_splits_streams_and_tasks_differ() -> None:
    numbers = [
        uniforms(seed, split, task, 1, 4, stream).tobytes()
        for seed in (0, 1, 2**64 - 2, 2**64 - 1)
        for split in ("train", "val", "test")
        for stream in (0, 1)
        for task in (0, 1, 2**40)
    ]
    assert len(set(numbers)) == len(numbers)


def test_numbers_are_uniform() -> None:
    numbers = uniforms(0, "val", 5, 50_000, 2).reshape(-1)
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    counts, _ = np.histogram(numbers, 10, (0.0, 1.0))
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(9_000)


def test_global_random_state_is_not_touched() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = uniforms(0, "train", 0, 3, 5)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    np.random.seed(2)
    np.testing.assert_array_equal(uniforms(0, "train", 0, 3, 5), first)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "0"])
def test_wrong_seed_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="`seed` must be an integer from 0"):
        uniforms(seed, "train", 0, 1, 1)  # type: ignore[arg-type]


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="`split` must be one of train, val, test, got 'all'"):
        uniforms(0, "all", 0, 1, 1)


def test_choices_agree_with_a_plain_shuffle() -> None:
    draws = uniforms(0, "train", 0, 200, 4)
    for row, chosen in zip(draws, choose_distinct(draws, 9), strict=True):
        pool = list(range(9))
        for i, u in enumerate(row):
            j = i + int(u * (9 - i))
            pool[i], pool[j] = pool[j], pool[i]
        assert chosen.tolist() == pool[:4]


def test_every_ordered_choice_is_equally_likely() -> None:
    chosen = choose_distinct(uniforms(0, "train", 0, 24_000, 2), 4)
    pairs, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(pairs) == 12
    assert np.abs(counts - 2_000).max() < 5 * np.sqrt(2_000)


def test_ragged_populations_stay_in_their_range() -> None:
    sizes = np.array([[3, 4, 50]] * 500)
    chosen = choose_distinct(uniforms(0, "train", 0, 500, 9).reshape(500, 3, 3), sizes)
    assert (chosen < sizes[..., None]).all()
    assert all(len(set(row)) == 3 for row in chosen.reshape(-1, 3).tolist())
    assert [set(chosen[:, i].reshape(-1)) for i in range(3)] == [set(range(n)) for n in sizes[0]]


def test_too_small_a_population_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`population` must be at least 3 .* got 2"):
        choose_distinct(np.zeros((2, 3)), np.array([5, 2]))
