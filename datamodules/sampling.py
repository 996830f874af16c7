"""Task t of a split is a pure function of (seed, split, t).

Numpy's counter-based Philox generator is started at the task's own place in the stream, so
consecutive tasks come out of one call, and tasks drawn in batches of any size, by any worker or
rank, are bit-equal. Nothing here reads or changes a global random state.
"""

import numpy as np
import numpy.typing as npt

SPLITS = {"train": 0, "val": 1, "test": 2}
STREAMS = 4  # independent streams of one split, e.g. which classes and which of their images
WORDS_PER_STEP = 4  # one step of Philox' counter gives four 64-bit words

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def check_seed(seed: int, name: str = "seed") -> int:
    """The seed, a setting called `name`, if it is one of Philox' 64-bit keys.

    Raises:
        ValueError: if it is no integer from 0 to 2**64 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"`{name}` must be an integer from 0 to 2**64 - 1, got {seed!r}.")
    return seed


def uniforms(
    seed: int, split: str, first_task: int, tasks: int, draws: int, stream: int = 0
) -> Floats:
    """Numbers from U[0, 1) for consecutive tasks, ``[tasks, draws]``.

    Row t depends on (seed, split, stream, first_task + t, draws) alone. Streams are independent:
    what one draws does not move what another draws.

    Raises:
        ValueError: for a `seed` that is no 64-bit integer or an unknown `split`.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {split!r}.")
    assert 0 <= stream < STREAMS
    steps = -(-draws // WORDS_PER_STEP)
    key = np.array([check_seed(seed), SPLITS[split] * STREAMS + stream], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=first_task * steps)
    return np.random.Generator(bits).random((tasks, steps * WORDS_PER_STEP))[:, :draws]


def uniforms_of_task(seed: int, split: str, task: int, draws: int) -> Floats:
    """Numbers from U[0, 1) for one task, ``[draws]``, a stream apart from those of `uniforms`.

    The first n are the same however many are drawn.

    Raises:
        ValueError: for a `seed` that is no 64-bit integer.
    """
    key = np.array([check_seed(seed), len(SPLITS) * STREAMS + SPLITS[split]], dtype=np.uint64)
    bits = np.random.Philox(key=key, counter=task << 64)  # so many steps belong to each task
    return np.random.Generator(bits).random(draws)


def choose_distinct(draws: Floats, population: int | Integers) -> Integers:
    """Distinct indices below `population`, in random order: partial Fisher-Yates shuffles.

    Every ordered choice is equally likely; each row of `draws` is one shuffle.

    Shapes:
        draws: ``[..., choices]`` from U[0, 1)
        population: a number, or one per row as ``[...]``
        returns: ``[..., choices]``, each below its row's population

    Raises:
        ValueError: if a population is smaller than the number of choices.
    """
    *leading, choices = draws.shape
    sizes = np.broadcast_to(np.asarray(population, dtype=np.int64), leading).reshape(-1)
    if sizes.size and sizes.min() < choices:
        raise ValueError(
            f"`population` must be at least {choices} (the number of distinct choices), "
            f"got {sizes.min()}."
        )
    flat = draws.reshape(-1, choices)
    rows = np.arange(len(flat))
    pool = np.tile(np.arange(sizes.max(initial=0)), (len(flat), 1))
    chosen = np.empty((len(flat), choices), dtype=np.int64)
    for i in range(choices):
        place = i + (flat[:, i] * (sizes - i)).astype(np.int64)
        chosen[:, i] = pool[rows, place]
        pool[rows, place] = pool[:, i]
    return chosen.reshape(*leading, choices)
