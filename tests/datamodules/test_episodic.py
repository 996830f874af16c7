"""Which tasks come when: batches, epochs, workers, ranks, and under Lightning's Trainer."""

from collections.abc import Iterable
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DistributedSampler

from datamodules import Sinusoid
from datamodules.episode_loader import TaskSampler
from datamodules.episodic import EpisodicDataModule
from datamodules.settings import Batches
from lightning_maml import MetaLearner
from lightning_maml.episode import Episode
from lightning_maml.models import MLP

pytestmark = [
    # Python 3.12 and newer warn of any fork from a process with threads, as loader workers are.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning"),
    # Lightning still asks for a class that torch deprecates.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # Four workers on a small computer are meant here.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
]


class Numbered(EpisodicDataModule):
    """Task t of the training split is the number t; of val 1,000,000 + t, of test 2,000,000 + t."""

    def __init__(self, **changed: int) -> None:
        settings = {
            "meta_batch_size": 4,
            "eval_batch_size": 4,
            "train_batches_per_epoch": 10,
            "val_tasks": 10,
            "test_tasks": 14,
            "seed": 0,
            "num_workers": 0,
        }
        super().__init__(Batches(**(settings | changed)))

    def load_tasks(self) -> dict[str, TaskSampler]:
        return {"train": numbered(0), "val": numbered(10**6), "test": numbered(2 * 10**6)}


def numbered(offset: int) -> TaskSampler:
    def sample(first_task: int, tasks: int) -> Episode:
        x = torch.arange(first_task, first_task + tasks)[:, None] + offset
        return Episode(x, x, x, x)

    return sample


def ids(loader: Iterable[Episode]) -> list[list[int]]:
    return [episode.support_x[:, 0].tolist() for episode in loader]


def flat(batches: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(batches))


def on_rank(data: EpisodicDataModule, rank: int, ranks: int) -> EpisodicDataModule:
    data.trainer = SimpleNamespace(global_rank=rank, world_size=ranks)  # type: ignore[assignment]
    return data


def test_batch_i_holds_the_tasks_from_i_times_b() -> None:
    loader = Numbered().train_dataloader()
    assert ids(loader) == [[4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3] for i in range(10)]
    assert len(loader) == 10


def test_no_training_task_returns() -> None:
    """A28: two epochs of 1,000 batches; a plain loop moves on by itself."""
    loader = Numbered(train_batches_per_epoch=1000).train_dataloader()
    seen = flat(ids(loader) + ids(loader))
    assert seen == list(range(8000))


def test_evaluation_tasks_are_the_same_each_time_and_the_last_batch_smaller() -> None:
    data = Numbered()
    loader = data.val_dataloader()
    assert ids(loader) == ids(loader) == ids(data.val_dataloader())
    assert [len(batch) for batch in ids(loader)] == [4, 4, 2]
    assert flat(ids(data.predict_dataloader())) == [2 * 10**6 + t for t in range(14)]


def test_set_epoch_says_which_epoch_comes() -> None:
    loader = Numbered().train_dataloader()
    loader.sampler.set_epoch(7)
    assert ids(loader)[0] == [280, 281, 282, 283]
    assert ids(loader)[0] == [320, 321, 322, 323]


def test_workers_do_not_change_the_sequence() -> None:
    """A29: the first 40 batches with 0, 1 and 4 workers, all their tasks different."""
    sequences = []
    for workers in (0, 1, 4):
        loader = Sinusoid(train_batches_per_epoch=20, num_workers=workers).train_dataloader()
        sequences.append([y for _ in range(2) for e in loader for y in e.query_y])
    assert len({y.numpy().tobytes() for y in sequences[0]}) == 40 * 25
    for other in sequences[1:]:
        assert torch.equal(torch.stack(sequences[0]), torch.stack(other))


def test_loaders_leave_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    for loader in (Numbered().train_dataloader(), Numbered().val_dataloader()):
        ids(loader)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_are_one_process_with_a_larger_batch(ranks: int) -> None:
    """Training: the data half of A33."""
    alone = Numbered(meta_batch_size=4 * ranks).train_dataloader()
    shares = [on_rank(Numbered(), r, ranks).train_dataloader() for r in range(ranks)]
    for _ in range(2):
        steps = zip(*[ids(share) for share in shares], strict=True)
        assert [flat(step) for step in steps] == ids(alone)


@pytest.mark.parametrize("ranks", [1, 2, 3, 14])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_ranks_evaluate_every_task_once(ranks: int, batch_size: int) -> None:
    shares = [
        flat(ids(on_rank(Numbered(eval_batch_size=batch_size), r, ranks).test_dataloader()))
        for r in range(ranks)
    ]
    assert all(shares)
    assert flat(shares) == [2 * 10**6 + t for t in range(14)]


def test_more_ranks_than_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`val_tasks` must be at least 11 .* got 10"):
        on_rank(Numbered(), 0, 11).val_dataloader()


def test_lightning_takes_our_samplers_for_distributed_ones() -> None:
    """It would put its own in place of any other, and all ranks would see other tasks."""
    data = Numbered()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert isinstance(loader.sampler, DistributedSampler)


class Recorder(LightningModule):
    """Remembers the tasks that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: dict[str, list[int]] = {"train": [], "val": [], "test": [], "predict": []}

    def training_step(self, batch: Episode, batch_idx: int) -> torch.Tensor:
        self.seen["train"] += batch.support_x[:, 0].tolist()
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch: Episode, batch_idx: int) -> None:
        self.seen["val"] += batch.support_x[:, 0].tolist()

    def test_step(self, batch: Episode, batch_idx: int) -> None:
        self.seen["test"] += batch.support_x[:, 0].tolist()

    def predict_step(self, batch: Episode, batch_idx: int) -> torch.Tensor:
        self.seen["predict"] += batch.support_x[:, 0].tolist()
        return batch.support_x

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_an_episode_moves_as_a_whole() -> None:
    """Also by Lightning's own way of moving a batch."""
    episode = Episode(*(torch.ones(2, 3) for _ in range(4)))
    for moved in (episode.to("meta"), move_data_to_device(episode, torch.device("meta"))):
        assert isinstance(moved, Episode)
        assert all(part.device.type == "meta" and part.shape == (2, 3) for part in moved)
    assert episode.to("cpu").query_y is episode.query_y


def test_a_learner_may_move_batches_itself() -> None:
    moved = []

    class Moving(MetaLearner):
        def transfer_batch_to_device(
            self, batch: Any, device: torch.device, dataloader_idx: int
        ) -> Any:
            moved.append(batch)
            return batch

    learner = Moving(MLP(1, 1, [4]), loss="mse", inner_lr=0.01)
    with pytest.warns(UserWarning, match="use the implementation from `LightningModule`"):
        trainer(max_steps=2, limit_val_batches=0).fit(learner, Sinusoid())
    assert len(moved) == 2


def trainer(**options: Any) -> Trainer:
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return Trainer(**(quiet | options))


def test_epochs_under_the_trainer() -> None:
    model = Recorder()
    trainer(max_epochs=3).fit(model, datamodule=Numbered())
    assert model.seen["train"] == list(range(120))
    assert model.seen["val"] == 3 * [10**6 + t for t in range(10)]


def test_test_and_predict_under_the_trainer() -> None:
    model = Recorder()
    trainer().test(model, datamodule=Numbered(), verbose=False)
    trainer().predict(model, datamodule=Numbered())
    assert model.seen["test"] == model.seen["predict"] == [2 * 10**6 + t for t in range(14)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"limit_train_batches": 3}, [*range(12), *range(40, 52)]),
        ({"reload_dataloaders_every_n_epochs": 1}, list(range(80))),
        ({"overfit_batches": 1}, [0, 1, 2, 3] * 2),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("workers", [0, 2])
# Lightning advises against what is tested here.
@pytest.mark.filterwarnings("ignore:You requested to overfit:UserWarning")
def test_trainer_options_keep_the_order(options: Any, expected: list[int], workers: int) -> None:
    model = Recorder()
    data = Numbered(num_workers=workers)
    trainer(max_epochs=2, limit_val_batches=0, **options).fit(model, datamodule=data)
    assert model.seen["train"] == expected


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [7, 10, 13, 20])
def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Any, stop: int, workers: int) -> None:
    """The data half of A34: from the middle and from the end of an epoch."""
    first, second = Recorder(), Recorder()
    options: dict[str, Any] = {
        "callbacks": ModelCheckpoint(tmp_path, every_n_train_steps=stop, save_top_k=-1),
        "enable_checkpointing": True,
        "limit_val_batches": 0,
    }
    data = Numbered(num_workers=workers)
    trainer(max_steps=stop, **options).fit(first, datamodule=data)
    trainer(max_steps=25, **options).fit(
        second,
        datamodule=Numbered(num_workers=workers),
        ckpt_path=str(next(tmp_path.glob("*.ckpt"))),
        weights_only=True,
    )
    assert first.seen["train"] == list(range(4 * stop))
    assert second.seen["train"] == list(range(4 * stop, 100))


def test_a_checkpoint_of_an_epochs_end_is_resumed_with_the_very_next_task(tmp_path: Any) -> None:
    """Lightning's default place to save, where it counts the finished epoch twice."""
    first, second = Recorder(), Recorder()
    options: dict[str, Any] = {
        "callbacks": ModelCheckpoint(tmp_path, save_on_train_epoch_end=True, save_last=True),
        "enable_checkpointing": True,
    }
    trainer(max_epochs=2, **options).fit(first, datamodule=Numbered())
    last = str(tmp_path / "last.ckpt")
    trainer(max_steps=25, **options).fit(second, datamodule=Numbered(), ckpt_path=last)
    assert first.seen["train"] == list(range(80))
    assert second.seen["train"] == list(range(80, 100))


def test_a_plain_loop_can_stop_and_go_on() -> None:
    loader = Numbered().train_dataloader()
    iterator = iter(loader)
    before = [next(iterator).support_x[:, 0].tolist() for _ in range(6)]
    state = loader.state_dict()
    resumed = Numbered().train_dataloader()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    after = ids(resumed)
    assert flat(before + after) == list(range(40))
    assert ids(resumed)[0] == [40, 41, 42, 43]
    finished = Numbered().train_dataloader()
    finished.load_state_dict({"epoch": 0, "taken": 10})
    assert ids(finished)[0] == [40, 41, 42, 43]


def test_images_become_floats_and_sinusoids_stay() -> None:
    data = Numbered()
    x = torch.tensor([[[0, 51, 255]]], dtype=torch.uint8)
    y = torch.tensor([[3]])
    moved = data.on_after_batch_transfer(Episode(x, y, x, y), 0)
    assert torch.equal(moved.support_x, torch.tensor([[[0.0, 0.2, 1.0]]]))
    assert moved.query_y is y
    floats = Episode(x.float(), y, x.float(), y)
    assert data.on_after_batch_transfer(floats, 0).support_x is floats.support_x


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_images_follow_the_models_precision(precision: str) -> None:
    class Images(Numbered):
        def load_tasks(self) -> dict[str, TaskSampler]:
            x = torch.full((4, 1, 2), 255, dtype=torch.uint8)
            y = torch.zeros(4, 1, dtype=torch.int64)
            return dict.fromkeys(("train", "val", "test"), lambda first, tasks: Episode(x, y, x, y))

    class SeesTypes(Recorder):
        def test_step(self, batch: Episode, batch_idx: int) -> None:
            assert batch.support_x.dtype == self.layer.weight.dtype != torch.float32
            assert batch.support_x.unique().tolist() == [1.0]

    trainer(precision=precision).test(SeesTypes(), datamodule=Images(), verbose=False)
