"""Ranges of classes and examples: one size for all of a batch, whoever draws it."""

from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules import Glyphs
from datamodules.image_cache import ClassImages
from datamodules.image_episodes import ImageTasks, image_tasks
from datamodules.settings import Shots, Sizes
from lightning_maml import Episode, MetaLearner
from lightning_maml.models import Conv4
from tests.datamodules.test_episodic import trainer

# Python 3.12 and newer warn of any fork from a process with threads, as loader workers are.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")

SMALL = {"characters": (12, 6, 6), "drawings": 6, "train_batches_per_epoch": 20}
RANGES = {"n_way": (2, 4), "k_shot": (1, 3), "query_shot": (1, 2)}
EVALUATION = {"eval_n_way": 3, "eval_k_shot": 1, "eval_query_shot": 4}


def glyphs(**changed: Any) -> Glyphs:
    return Glyphs(**(SMALL | RANGES | EVALUATION | {"meta_batch_size": 3} | changed))


def on_rank(data: Glyphs, rank: int, ranks: int) -> Glyphs:
    data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)  # type: ignore[assignment]
    return data


def sizes(episode: Episode) -> Sizes:
    """Read off the labels, whose classes must come equally often in all tasks of a batch."""
    counts = [
        {tuple(sorted(Counter(labels.tolist()).items())) for labels in part}
        for part in (episode.support_y, episode.query_y)
    ]
    ((support,), (query,)) = counts
    (k_shot,), (query_shot,) = ({count for _, count in part} for part in (support, query))
    assert [label for label, _ in support] == [label for label, _ in query]
    assert [label for label, _ in support] == list(range(len(support)))
    return Sizes(len(support), k_shot, query_shot)


def test_every_size_comes_equally_often_and_by_itself() -> None:
    """18 combinations of sizes in 3,600 batches: 200 of each, give or take five deviations."""
    loader = glyphs(train_batches_per_epoch=1).train_dataloader()
    tasks = loader.dataset.sampler  # type: ignore[attr-defined]
    counts = Counter(tasks.sizes_of(batch) for batch in range(3600))
    assert len(counts) == 3 * 3 * 2
    assert all(abs(count - 200) < 5 * 200**0.5 for count in counts.values())
    for batch, episode in enumerate(glyphs().train_dataloader()):
        assert sizes(episode) == tasks.sizes_of(batch)


def test_sizes_and_tasks_do_not_depend_on_workers() -> None:
    """A29, with ranges."""
    first, *others = (list(glyphs(num_workers=n).train_dataloader()) for n in (0, 1, 2))
    for other in others:
        for one, same in zip(first, other, strict=True):
            assert all(map(torch.equal, one, same))


def test_ranks_together_are_one_process_with_a_larger_batch() -> None:
    alone = list(glyphs(meta_batch_size=6).train_dataloader())
    shares = [on_rank(glyphs(), r, 2).train_dataloader() for r in range(2)]
    for whole, *parts in zip(alone, *shares, strict=True):
        assert all(map(torch.equal, whole, map(torch.cat, zip(*parts, strict=True))))


def test_another_seed_gives_other_sizes() -> None:
    one, other = ([sizes(e) for e in glyphs(seed=s).train_dataloader()] for s in (0, 1))
    assert one != other


def test_evaluation_has_sizes_of_its_own() -> None:
    data = glyphs(eval_batch_size=2, val_tasks=10)
    assert {sizes(episode) for episode in data.val_dataloader()} == {Sizes(3, 1, 4)}


def test_a_smaller_task_is_part_of_the_larger(
    images_with_ids: Callable[[Sequence[int]], ClassImages],
) -> None:
    """So no two batches of different sizes share random numbers by accident."""
    tasks = ImageTasks(images_with_ids([9] * 20), 0, "train", 4, 2, 3)
    whole, part = tasks(0, 50), tasks(0, 50, Sizes(3, 1, 2))
    of_class = [x.view(50, 4, -1, 1, 2, 2) for x in (whole.support_x, whole.query_x)]
    assert torch.equal(part.support_x, of_class[0][:, :3, :1].reshape(50, 3, 1, 2, 2))
    assert torch.equal(part.query_x, of_class[1][:, :3, :2].reshape(50, 6, 1, 2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_way": (5, 3)}, r"`n_way` must be a number or a range, \[least, most\], got \[5, 3\]"),
        ({"n_way": (2, 3, 4)}, "`n_way` must be a number or a range"),
        ({"n_way": (1, 4)}, "`n_way` must be an integer of at least 2, got 1"),
        ({"k_shot": (0, 4)}, "`k_shot` must be an integer of at least 1, got 0"),
        ({"query_shot": (1, 2.5)}, "`query_shot` must be an integer or a list"),
        ({"eval_k_shot": None}, "`eval_k_shot` must be given where `k_shot` is a range, got None"),
        ({"eval_n_way": 1}, "`eval_n_way` must be an integer of at least 2, got 1"),
    ],
)
def test_wrong_ranges_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        glyphs(**settings)


def test_there_must_be_enough_for_the_largest_tasks(
    images_with_ids: Callable[[Sequence[int]], ClassImages],
) -> None:
    """A22, A23's kind: before the first batch, not when a large one is drawn."""
    splits = {"train": images_with_ids([5] * 6)}
    shots = Shots((2, 7), 1, 1, eval_n_way=2)
    with pytest.raises(ValueError, match=r"`n_way` must be at most 6 .* got 7"):
        image_tasks(splits, shots, seed=0)
    with pytest.raises(ValueError, match=r"`k_shot` \+ `query_shot` .* got 4 \+ 2 = 6"):
        image_tasks(splits, Shots(2, (1, 4), (1, 2), None, 1, 1), seed=0)
    with pytest.raises(ValueError, match=r"`eval_k_shot` \+ `query_shot` .* got 5 \+ 1 = 6"):
        image_tasks({"val": splits["train"]}, Shots(2, (1, 4), 1, None, 5), seed=0)


@pytest.mark.parametrize("outputs", [4, 3])
def test_a_head_must_have_outputs_for_the_largest_tasks(outputs: int) -> None:
    """Four outputs fit tasks of 2 to 4 classes; three are refused before anything is trained."""
    head = Conv4(n_way=outputs, in_channels=1, channels=4, image_size=28)
    learner = MetaLearner(head, loss="cross_entropy", inner_lr=0.1)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    fit = trainer(max_steps=20, limit_val_batches=0).fit
    if outputs == 4:
        fit(learner, datamodule=glyphs())
        return
    with pytest.raises(ValueError, match=r"`n_way` must be at most 3, the outputs of .* got 4"):
        fit(learner, datamodule=glyphs())
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items())
