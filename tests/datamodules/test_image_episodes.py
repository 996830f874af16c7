"""N-way K-shot tasks from images whose pixels hold their number and class."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from datamodules.image_cache import ClassImages
from datamodules.image_episodes import ImageTasks, image_tasks
from datamodules.settings import Shots

MakeImages = Callable[[Sequence[int]], ClassImages]


def numbers(x: torch.Tensor) -> torch.Tensor:
    """Image numbers ``[tasks, images]`` from pixels ``[tasks, images, 1, 2, 2]``."""
    return x[..., 0, 0, 0].long() + 256 * x[..., 0, 0, 1].long()


def classes(x: torch.Tensor) -> torch.Tensor:
    """Class numbers ``[tasks, images]`` from pixels."""
    return x[..., 0, 1, 0].long()


def tasks_of(images: ClassImages, k_shot: int, query_shot: int, n_way: int = 5) -> ImageTasks:
    return ImageTasks(images, 0, "train", n_way, k_shot, query_shot)


def test_a_class_gets_every_label_equally_often(images_with_ids: MakeImages) -> None:
    """A18: 64 classes, 5,000 episodes: each label about 78 times."""
    episode = tasks_of(images_with_ids([4] * 64), 1, 1)(0, 5000)
    pairs = Counter(
        zip(
            classes(episode.support_x).reshape(-1).tolist(),
            episode.support_y.reshape(-1).tolist(),
            strict=True,
        )
    )
    counts = np.array([pairs[c, label] for c in range(64) for label in range(5)])
    assert counts.sum() == 25_000
    assert np.abs(counts - 78.1).max() <= 36


def test_each_label_is_one_class_and_comes_as_often_as_it_should(
    images_with_ids: MakeImages,
) -> None:
    """A19: k_shot times in support, query_shot times in query, one class per label."""
    episode = tasks_of(images_with_ids([9] * 20), 2, 3)(0, 1000)
    for task in range(1000):
        assert Counter(episode.support_y[task].tolist()) == dict.fromkeys(range(5), 2)
        assert Counter(episode.query_y[task].tolist()) == dict.fromkeys(range(5), 3)
        meaning = {
            (label, of_class)
            for x, y in (episode[:2], episode[2:])
            for label, of_class in zip(y[task].tolist(), classes(x)[task].tolist(), strict=True)
        }
        assert len(meaning) == 5
        assert len({of_class for _, of_class in meaning}) == 5


@pytest.mark.parametrize(("k_shot", "query_shot"), [(2, 3), (1, 19), (19, 1)])
def test_support_and_query_are_disjoint(
    images_with_ids: MakeImages, k_shot: int, query_shot: int
) -> None:
    """A20: also where they take all images of a class between them."""
    episode = tasks_of(images_with_ids([20] * 12), k_shot, query_shot)(0, 1000)
    together = torch.cat([numbers(episode.support_x), numbers(episode.query_x)], dim=1)
    assert all(len(set(row)) == 5 * (k_shot + query_shot) for row in together.tolist())


def test_no_class_is_drawn_twice(images_with_ids: MakeImages) -> None:
    """A21: 0 of 10,000 episodes."""
    chosen, _ = tasks_of(images_with_ids([2] * 20), 1, 1).choose(0, 10_000)
    assert all(len(set(row)) == 5 for row in chosen.tolist())


def test_a_class_that_is_too_small_is_named(images_with_ids: MakeImages) -> None:
    """A22: the class, its count, both settings and the sum needed."""
    splits = {"train": images_with_ids([20, 20, 4, 20, 20])}
    message = (
        r"`k_shot` \+ `query_shot` must be at most 4 \(images of the class 'class2' in the "
        r"train split\), got 1 \+ 15 = 16"
    )
    with pytest.raises(ValueError, match=message):
        image_tasks(splits, Shots(5, 1, 15), seed=0)
    with pytest.raises(ValueError, match=r"`k_shot` \+ `eval_query_shot` .* test split"):
        image_tasks({"test": splits["train"]}, Shots(5, 1, 3, eval_query_shot=15), seed=0)


def test_too_few_classes_are_refused(images_with_ids: MakeImages) -> None:
    splits = {"val": images_with_ids([9] * 4)}
    with pytest.raises(ValueError, match=r"`n_way` must be at most 4 \(classes in the val split"):
        image_tasks(splits, Shots(5, 1, 1), seed=0)
    image_tasks(splits, Shots(16, 1, 1), seed=0, rotations=4)


def test_every_image_turns_up(images_with_ids: MakeImages) -> None:
    """A27: 30 images, 6 drawn at a time, 200 times: all are seen, in support and in query."""
    episode = tasks_of(images_with_ids([30] * 5), 3, 3)(0, 200)
    for x in (episode.support_x, episode.query_x):
        assert set(numbers(x).reshape(-1).tolist()) == set(range(150))


def test_classes_of_different_size_keep_to_themselves(images_with_ids: MakeImages) -> None:
    images = images_with_ids([3, 40, 5, 300, 4, 9])
    episode = tasks_of(images, 1, 2)(0, 2000)
    of_class = np.repeat(np.arange(6), images.counts)
    for x in (episode.support_x, episode.query_x):
        assert (of_class[numbers(x).numpy()] == classes(x).numpy()).all()
    assert set(numbers(episode.query_x).reshape(-1).tolist()) == set(range(361))


def test_batches_do_not_matter(images_with_ids: MakeImages) -> None:
    tasks = tasks_of(images_with_ids([9] * 20), 1, 2)
    whole = tasks(0, 24)
    parts = [tasks(first, 4) for first in range(0, 24, 4)]
    for i in range(4):
        assert torch.equal(whole[i], torch.cat([part[i] for part in parts]))


def test_rotated_classes_are_the_turned_images(images_with_ids: MakeImages) -> None:
    images = images_with_ids([3] * 6)
    tasks = ImageTasks(images, 0, "train", n_way=5, k_shot=1, query_shot=2, rotations=4)
    chosen, picked = tasks.choose(0, 50)
    episode = tasks(0, 50)
    assert set((chosen % 4).reshape(-1)) == {0, 1, 2, 3}
    for task in range(50):
        for way in range(5):
            expected = torch.stack(
                [
                    images.images[i].rot90(int(chosen[task, way]) % 4, (1, 2))
                    for i in picked[task, way]
                ]
            )
            assert torch.equal(episode.support_x[task, way], expected[0])
            assert torch.equal(episode.query_x[task, 2 * way : 2 * way + 2], expected[1:])
            assert (picked[task, way] // 3 == chosen[task, way] // 4).all()


def test_drawing_leaves_the_images_as_they_are(images_with_ids: MakeImages) -> None:
    images = images_with_ids([3] * 6)
    before = images.images.clone()
    ImageTasks(images, 0, "train", 5, 1, 2, rotations=4)(0, 50)
    assert torch.equal(images.images, before)
