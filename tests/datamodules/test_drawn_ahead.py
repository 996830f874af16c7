"""Tasks that are drawn many at a time are those that are drawn one by one."""

import random
from types import SimpleNamespace

import torch

from datamodules import Sinusoid
from datamodules.drawn_ahead import DrawnAhead
from lightning_maml import Episode


def counting(asked: list[tuple[int, int]]):
    def sampler(first_task: int, tasks: int) -> Episode:
        asked.append((first_task, tasks))
        numbers = torch.arange(first_task, first_task + tasks)
        return Episode(*(part * numbers[:, None] for part in (1, 2, 3, 4)))

    return sampler


def test_any_requests_are_answered_as_by_the_sampler_itself() -> None:
    draw = random.Random(0)
    ahead, plain = DrawnAhead(counting([]), 20), counting([])
    for _ in range(300):
        first, tasks = draw.randrange(100), draw.randrange(1, 40)
        for got, right in zip(ahead(first, tasks), plain(first, tasks), strict=True):
            assert torch.equal(got, right)


def test_the_sampler_is_asked_once_for_many_batches() -> None:
    asked: list[tuple[int, int]] = []
    ahead = DrawnAhead(counting(asked), 20)
    for number in range(10):
        ahead(5 * number, 5)
    assert asked == [(0, 20), (20, 20), (40, 20)]


def test_not_where_processes_or_workers_share_the_tasks() -> None:
    """Each would draw what the others take."""
    for ranks, workers, ahead in ((1, 0, True), (2, 0, False), (1, 2, False)):
        data = Sinusoid(num_workers=workers)
        data.trainer = SimpleNamespace(global_rank=0, world_size=ranks)  # type: ignore[assignment]
        data.setup()
        assert isinstance(data.tasks["train"], DrawnAhead) == ahead


def test_what_is_done_to_a_batch_stays_in_it() -> None:
    ahead = DrawnAhead(counting([]), 20)
    ahead(2, 3).support_x.zero_()
    assert ahead(2, 3).support_x.flatten().tolist() == [2, 3, 4]


def test_training_sinusoids_are_those_of_the_sampler_on_each_rank() -> None:
    for rank, ranks in ((0, 1), (0, 2), (1, 2)):
        data = Sinusoid(meta_batch_size=3, train_batches_per_epoch=1500)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)  # type: ignore[assignment]
        for step, episode in enumerate(data.train_dataloader()):
            if step % 97 == 0 or step > 1490:
                right = data.samplers["train"](3 * (ranks * step + rank), 3)
                assert all(map(torch.equal, episode, right))
