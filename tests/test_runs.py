"""Whole runs: what users of other implementations suffered in them, checkpoints, figures."""

import gc
import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import nn

from datamodules import Sinusoid
from lightning_maml import Episode, MetaLearner
from lightning_maml.run.checkpointing import (
    AtomicCheckpointIO,
    generator_states,
    set_generator_states,
)
from lightning_maml.run.sample_tasks import draw
from tests.test_meta_learner import loader, trainer
from tests.test_modules import images, stock_conv_net


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))


def learner(**settings: Any) -> MetaLearner:
    return MetaLearner(net(), loss=F.mse_loss, **{"inner_lr": 0.02, **settings})


def data(**settings: Any) -> Sinusoid:
    return Sinusoid(
        **{"meta_batch_size": 2, "val_tasks": 6, "train_batches_per_epoch": 5, **settings}
    )


class Watch(Callback):
    """Notes something after each batch or validation."""

    def __init__(self, **notes: Any) -> None:
        self.notes, self.seen = notes, {name: [] for name in notes}

    def on_train_batch_end(self, run: Trainer, module: LightningModule, *_: Any) -> None:
        self.note("batch", run)

    def on_validation_end(self, run: Trainer, module: LightningModule) -> None:
        self.note("validation", run)

    def note(self, when: str, run: Trainer) -> None:
        if when in self.notes:
            self.seen[when].append(self.notes[when](run))


class Fake(Logger):
    """Remembers what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, set[str]]] = []

    name, version = "fake", "0"

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Not of interest."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.append((step, set(metrics)))


def rate(run: Trainer) -> float:
    return run.optimizers[0].param_groups[0]["lr"]


def test_validations_of_the_same_weights_are_equal(tmp_path: Path) -> None:
    """A31: five epochs with a learning rate of zero."""
    watch = Watch(validation=lambda run: run.callback_metrics["val/loss"].item())
    trainer(tmp_path, max_steps=-1, max_epochs=5, callbacks=[watch]).fit(
        learner(meta_lr=0.0), data()
    )
    assert len(watch.seen["validation"]) >= 5
    assert len(set(watch.seen["validation"])) == 1


def test_a_cosine_is_stepped_once_per_meta_update_also_after_a_resume(tmp_path: Path) -> None:
    """A36: over 100 updates from 0.001, with a stop after 50: 0.0005 there, 0 at the end."""
    cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=100)
    watch = Watch(batch=rate)
    settings = {"callbacks": [watch], "limit_val_batches": 0}
    first = trainer(tmp_path, max_steps=50, **settings)
    first.fit(learner(scheduler=cosine), data())
    first.save_checkpoint(tmp_path / "half.ckpt")
    assert watch.seen["batch"][-1] == pytest.approx(0.0005, rel=1e-9)
    trainer(tmp_path, max_steps=100, **settings).fit(
        learner(scheduler=cosine), data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert len(watch.seen["batch"]) == 100
    assert watch.seen["batch"][74] == pytest.approx(0.001 * 0.5 * (1 - 0.5**0.5), rel=1e-9)
    assert watch.seen["batch"][-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_max_steps_counts_meta_updates_whatever_the_parameter_groups(
    tmp_path: Path, accumulate: int
) -> None:
    """A37: ten updates, of `accumulate` batches each, with a group for each parameter."""

    def groups(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam([{"params": [p]} for p in parameters])

    watch = Watch(batch=lambda run: run.global_step)
    maml = learner(optimizer=groups, learn_inner_lr="per_tensor", accumulate_batches=accumulate)
    run = trainer(tmp_path, max_steps=10, callbacks=[watch])
    run.fit(maml, data())
    assert run.global_step == 10
    assert watch.seen["batch"] == [n // accumulate for n in range(1, 10 * accumulate + 1)]


def test_logged_steps_are_meta_updates_and_never_go_back(tmp_path: Path) -> None:
    """A38: ten updates, a resume, ten more, validation between; no point is lost."""
    fake = Fake()
    settings = {"logger": fake, "log_every_n_steps": 1, "num_sanity_val_steps": 2}
    first = trainer(tmp_path, max_steps=10, **settings)
    first.fit(learner(accumulate_batches=3), data())
    first.save_checkpoint(tmp_path / "ten.ckpt")
    second = trainer(tmp_path, max_steps=20, **settings)
    second.fit(
        learner(accumulate_batches=3), data(), ckpt_path=tmp_path / "ten.ckpt", weights_only=True
    )
    steps = [step for step, _ in fake.rows]
    assert steps == sorted(steps)
    assert [step for step, names in fake.rows if "train/loss" in names] == list(range(1, 21))
    validated = [step for step, names in fake.rows if "val/loss" in names]
    assert validated == [5 * epoch // 3 for epoch in range(1, 13)]


GPU = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
)


@pytest.mark.parametrize("accelerator", ["cpu", GPU])
@pytest.mark.parametrize("first_order", [False, True])
def test_training_in_bfloat16(tmp_path: Path, accelerator: str, first_order: bool) -> None:
    """A35: a net without batch norm; its meta-gradient is within 5% of that in 32 bits."""
    norms = {}
    for precision in ("32-true", "bf16-mixed"):
        logger = CSVLogger(tmp_path, precision)
        run = trainer(
            tmp_path, accelerator=accelerator, precision=precision, logger=logger,
            log_every_n_steps=1,
        )  # fmt: skip
        maml = learner(first_order=first_order, inner_steps=2)
        run.fit(maml, data(meta_batch_size=25))
        norms[precision] = run.callback_metrics["train/meta_grad_norm"].item()
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in maml.parameters())
    assert norms["bf16-mixed"] == pytest.approx(norms["32-true"], rel=0.05)
    assert norms["bf16-mixed"] != norms["32-true"]


def test_a_longer_evaluation_begins_with_the_shorter_one(tmp_path: Path) -> None:
    """A17: trained with 5 steps, tested with 0, 5 and 10."""
    curves = {}
    for steps in (0, 5, 10):
        maml = learner(inner_steps=5, eval_inner_steps=steps)
        (values,) = trainer(tmp_path).test(maml, data(test_tasks=4), verbose=False)
        names = [name for name in values if "_step" in name]
        assert len(names) == steps + 1
        curves[steps] = [values[f"test/loss_step{k}"] for k in range(steps + 1)]
    assert curves[10][:6] == curves[5]
    assert curves[5][:1] == curves[0]


def test_a_long_validation_keeps_no_graphs(tmp_path: Path) -> None:
    """A16: as many tensors with a graph after 100 batches as after 5."""

    seen = []

    class Count(Callback):
        def on_validation_batch_end(self, *args: Any) -> None:
            if args[-1] in (4, 99):  # the batch's number
                gc.collect()
                tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, nn.Parameter)]
                seen.append(sum(t.grad_fn is not None for t in tensors))

    trainer(tmp_path, callbacks=[Count()]).validate(
        learner(), data(val_tasks=100, eval_batch_size=1), verbose=False
    )
    assert len(seen) == 2
    assert seen[0] == seen[1]


# -- checkpoints -------------------------------------------------------------------------------


def test_a_checkpoint_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"a": threading.Lock()}, path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True) == {"a": 1}


def test_every_trainer_writes_checkpoints_whole(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(learner(), data())
    assert isinstance(run.strategy.checkpoint_io, AtomicCheckpointIO)


def test_the_best_score_is_kept_when_a_resumed_run_has_a_new_folder(tmp_path: Path) -> None:
    """Later validations here are worse, as the loss is to be as large as possible."""

    def run(folder: str, steps: int, checkpoint: Path | None = None) -> ModelCheckpoint:
        best = ModelCheckpoint(
            tmp_path / folder, monitor="val/loss", mode="max", save_on_train_epoch_end=False
        )
        last = ModelCheckpoint(tmp_path / folder, filename="last", save_on_train_epoch_end=False)
        settings = {"callbacks": [best, last], "enable_checkpointing": True}
        trainer(tmp_path, max_steps=steps, **settings).fit(
            learner(meta_lr=0.01), data(), ckpt_path=checkpoint, weights_only=True
        )
        return best

    first = run("one", 10)
    second = run("two", 30, tmp_path / "one" / "last.ckpt")
    assert second.best_model_score == first.best_model_score
    assert second.best_model_path == first.best_model_path
    assert Path(first.best_model_path).exists()
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["last.ckpt"]


def test_the_last_update_is_saved_where_no_validation_follows(tmp_path: Path) -> None:
    """Seven updates in epochs of five; another run's last.ckpt is left alone."""
    (tmp_path / "last.ckpt").write_text("of another run")
    saver = ModelCheckpoint(tmp_path, monitor="val/loss", save_on_train_epoch_end=False)
    run = trainer(tmp_path, max_steps=7, callbacks=[saver], enable_checkpointing=True)
    run.fit(learner(), data())
    assert torch.load(tmp_path / "last_2.ckpt", weights_only=True)["global_step"] == 7
    assert (tmp_path / "last.ckpt").read_text() == "of another run"


@pytest.mark.parametrize(
    ("limit", "updates"),
    [
        ({"max_epochs": 3, "check_val_every_n_epoch": 2}, 15),  # no validation follows
        ({"max_steps": 5, "val_check_interval": 3}, 5),  # nor here, at the epoch's end
        ({"max_epochs": 2}, 10),
    ],
)
def test_every_end_leaves_a_checkpoint_to_go_on_from(tmp_path: Path, limit, updates) -> None:
    def run(folder: str, checkpoint: Path | None = None, **limits: Any) -> MetaLearner:
        saver = ModelCheckpoint(
            tmp_path / folder, filename="last", enable_version_counter=False,
            save_on_train_epoch_end=False,
        )  # fmt: skip
        maml = learner()
        trainer(
            tmp_path, callbacks=[saver], enable_checkpointing=True, **({"max_steps": -1} | limits)
        ).fit(maml, data(), ckpt_path=checkpoint, weights_only=True)
        return maml

    torch.manual_seed(0)
    run("one", **limit)
    (path,) = (tmp_path / "one").iterdir()
    assert torch.load(path, weights_only=True)["global_step"] == updates
    rest = limit | {"max_epochs": -1, "max_steps": 20}
    resumed = run("one", path, **rest)
    torch.manual_seed(0)
    straight = run("two", **rest)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


@pytest.mark.parametrize("interval", [1, 2, "00:00:15:00", 1.0])
def test_a_signal_is_obeyed_however_often_the_run_validates(tmp_path: Path, interval) -> None:
    class Terminate(Callback):
        def on_train_batch_start(self, run: Trainer, *args: Any) -> None:
            if run.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    saver = ModelCheckpoint(tmp_path, filename="last", enable_version_counter=False)
    run = trainer(
        tmp_path, max_steps=50, val_check_interval=interval, callbacks=[Terminate(), saver],
        enable_checkpointing=True,
    )  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        run.fit(learner(), data())
    assert stopped.value.code == 128 + signal.SIGTERM
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] in (3, 4)


def test_generators_are_put_back() -> None:
    import random

    import numpy as np

    states = generator_states()
    drawn = [(torch.rand(2).tolist(), np.random.rand(), random.random()) for _ in range(2)]
    assert drawn[0] != drawn[1]
    set_generator_states(states)
    assert (torch.rand(2).tolist(), np.random.rand(), random.random()) == drawn[0]


# -- figures -----------------------------------------------------------------------------------


def test_tasks_are_drawn_where_there_is_a_way_to() -> None:
    maml = MetaLearner(stock_conv_net(), loss=F.cross_entropy)
    episode = images()
    assert len(draw(episode, maml.outputs(episode))) == episode.tasks
    wide = Episode(*(torch.zeros(2, 3, 4) for _ in range(4)))
    assert draw(wide, torch.zeros(2, 2, 3, 4)) == []
    numbers = Episode(*(torch.rand(2, 3, 1) for _ in range(4)))
    assert len(draw(numbers, torch.rand(2, 2, 3, 1))) == 2
    assert draw(numbers, torch.rand(2, 2, 3, 2)) == []  # a mean and a variance, say
    classes = Episode(torch.rand(2, 3, 1), torch.zeros(2, 3).long(), torch.rand(2, 3, 1),
                      torch.zeros(2, 3).long())  # fmt: skip
    assert draw(classes, torch.rand(2, 2, 3, 5)) == []


def test_figures_reach_tensorboard(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path)
    trainer(tmp_path, logger=logger, max_steps=5, log_every_n_steps=1).fit(learner(), data())
    logger.experiment.flush()
    (events,) = tmp_path.rglob("events.out*")
    content = events.read_bytes()
    for name in (b"val/curve/0", b"val/tasks/2", b"val/loss_step1", b"\x89PNG"):
        assert name in content


def test_plain_loader_still_works(tmp_path: Path) -> None:
    """A loader without a state of its own, as users have them."""
    episode = next(iter(data().train_dataloader()))
    run = trainer(tmp_path, max_steps=2)
    run.fit(learner(), loader(episode, episode))
    assert run.global_step == 2
