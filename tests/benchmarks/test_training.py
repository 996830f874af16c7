"""benchmarks/training.py: each moment of a fit is in one part, that of what took it."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

import training
from datamodules import Sinusoid
from datamodules.episodic import EpisodicDataModule
from lightning_maml import MetaLearner
from lightning_maml.run.progress import MetaProgressBar
from tests.run.conftest import CONFIG
from tests.test_meta_learner import trainer
from timed_fit import cost_of_a_call

UPDATES = 4
MODEL_CALLS = 3  # in a meta-gradient with one inner step: its gradient, the query's, the product
PART_OF = {
    "sampler": "loader",
    "transfer": "loader",
    "model": "engine",
    "backward": "engine",
    "optimizer": "optimizer",
    "scheduler": "optimizer",
    "strategy": "trainer",
    "step hook": "trainer",  # which Lightning calls inside the optimizer's step
    "batch hook": "trainer",
    "before": "logging",
    "logger": "logging",
    "gathering": "logging",
    "step metrics": "logging",
    "bar": "logging",
    "validation": "validation",
    "checkpoint": "validation",
}
EACH = [what for what, part in PART_OF.items() if part != "validation"]  # in each meta-update
Spend = Callable[[str], None]


class Time:
    """Stands still, but for what is slow: so many milliseconds."""

    def __init__(self, **slow: float) -> None:
        self.now, self.slow = 100.0, slow

    def perf_counter(self) -> float:
        return self.now

    def spend(self, what: str) -> None:
        self.now += 1e-3 * self.slow.get(what, 0)


class Net(nn.Module):
    def __init__(self, spend: Spend) -> None:
        super().__init__()
        self.linear, self.spend = nn.Linear(1, 1), spend

    def forward(self, x: Tensor) -> Tensor:
        self.spend("model" if self.training else "evaluation")
        return self.linear(x)


class Learner(MetaLearner):
    def evaluate(self, *args: Any, **settings: Any) -> Any:
        if self.trainer.training:
            self.spend("before")
        else:
            self.spend("validation")
        return super().evaluate(*args, **settings)


class Sgd(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        done = super().step(closure)
        self.spend("optimizer")
        return done


class Hooks(Callback):
    def __init__(self, spend: Spend) -> None:
        self.spend = spend

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.spend("step hook")

    def on_train_batch_start(self, *_: Any) -> None:
        self.spend("batch hook")

    def on_validation_batch_start(self, *_: Any) -> None:
        self.spend("validation")

    def on_save_checkpoint(self, *_: Any) -> None:
        self.spend("checkpoint")


class Log(CSVLogger):
    def log_metrics(self, metrics: dict, step: int | None = None) -> None:
        if "train/loss" in metrics:
            self.spend("logger")
        super().log_metrics(metrics, step)


def given(owner: Any, spend: Spend) -> Any:
    owner.spend = spend
    return owner


def slowed(owner: Any, name: str, spend: Spend, what: str) -> Any:
    """`owner`, whose method `name` takes a while."""
    call = getattr(owner, name)

    def slow(*args: Any, **settings: Any) -> Any:
        spend(what)
        return call(*args, **settings)

    setattr(owner, name, slow)
    return owner


class Data(EpisodicDataModule):
    """Two batches an epoch, and a validation of one batch after each."""

    def __init__(self, spend: Spend) -> None:
        inner = Sinusoid(meta_batch_size=2, train_batches_per_epoch=2, val_tasks=2)
        super().__init__(inner.batches)
        self.samplers, self.spend = inner.samplers, spend

    def load_tasks(self) -> dict[str, Any]:
        def train(first: int, tasks: int) -> Any:
            self.spend("sampler")
            return self.samplers["train"](first, tasks)

        return {**self.samplers, "train": train}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer.training:
            self.spend("transfer")
        return super().on_after_batch_transfer(batch, dataloader_idx)


def fit(folder: Path, spend: Spend, inside: bool = True) -> dict[str, Any]:
    """The parts of `UPDATES` meta-updates after the first."""

    def sgd(parameters: Any) -> torch.optim.Optimizer:
        return given(Sgd(parameters, lr=0.01), spend)

    class Constant(torch.optim.lr_scheduler.ConstantLR):
        def step(self, *args: Any) -> None:
            spend("scheduler")
            super().step(*args)

    maml = Learner(Net(spend), loss=F.mse_loss, optimizer=sgd, scheduler=Constant)
    given(slowed(maml, "backward", spend, "backward"), spend)
    bar = slowed(MetaProgressBar(), "on_train_batch_end", spend, "bar")
    run = trainer(
        folder, max_steps=UPDATES + 2, max_epochs=-1, log_every_n_steps=1, num_sanity_val_steps=0,
        logger=given(Log(folder), spend), enable_checkpointing=True, enable_progress_bar=True,
        callbacks=[Hooks(spend), bar, ModelCheckpoint(folder, every_n_epochs=1)],
    )  # fmt: skip
    slowed(run.strategy, "optimizer_step", spend, "strategy")

    def in_training(what: str) -> None:
        if run.training:
            spend(what)

    slowed(run._logger_connector, "on_batch_end", in_training, "gathering")
    slowed(run._logger_connector, "update_train_step_metrics", spend, "step metrics")
    begin = partial(run.fit, maml, datamodule=Data(spend))
    return training.timed(run, maml, begin, 1, 1 + UPDATES, inside)


def stopped_time(monkeypatch: pytest.MonkeyPatch, **slow: float) -> Time:
    time = Time(**slow)
    monkeypatch.setattr("timed_fit.time", time)
    monkeypatch.setattr("training.time", time)
    return time


@pytest.mark.parametrize("what", PART_OF)
def test_what_is_slow_shows_in_its_part_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    parts = fit(tmp_path, stopped_time(monkeypatch, **{what: 30.0}).spend)["parts_ms"]
    assert parts.pop(PART_OF[what]) >= 14.9  # a validation, and a checkpoint, are every second time
    assert parts == pytest.approx(dict.fromkeys(parts, 0.0))


def test_parts_sum_to_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a time of its own, so that two in one another's place would show."""
    slow = {what: float(3**number) for number, what in enumerate(EACH)}
    result = fit(tmp_path, stopped_time(monkeypatch, **slow).spend)
    slow["model"] *= MODEL_CALLS
    expected = dict.fromkeys(training.PARTS, 0.0)
    for what, ms in slow.items():
        expected[PART_OF[what]] += ms
    assert result["parts_ms"] == pytest.approx(expected)
    assert result["update_ms"] == pytest.approx(sum(slow.values()))


def test_without_a_clock_inside_the_whole_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = stopped_time(monkeypatch, sampler=3.0, optimizer=5.0)
    result = fit(tmp_path, slow.spend, inside=False)
    assert result["update_ms"] == pytest.approx(8.0)
    assert result["parts_ms"] == {}
    assert result["calls"] == 0


def test_a_real_fit(tmp_path: Path) -> None:
    """Nothing is longer than what holds it, and the clock knows its own cost."""
    result = fit(tmp_path, lambda what: None)
    parts = result["parts_ms"]
    assert all(ms > 0 for ms in parts.values())
    assert sum(parts.values()) == pytest.approx(result["update_ms"])
    assert result["start_s"] + 1e-3 * UPDATES * result["update_ms"] < result["fit_s"]
    assert 12 <= result["calls"] < 20
    assert 0 < result["clock_ms"] < result["update_ms"]
    assert 0 < cost_of_a_call(calls=2000) < 1e-3


def test_a_fit_that_ends_before_is_an_error(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=2)
    maml = MetaLearner(nn.Linear(1, 1), loss=F.mse_loss)
    begin = partial(run.fit, maml, datamodule=Sinusoid(val_tasks=1))
    with pytest.raises(SystemExit, match="ended at meta-update 2, not after 5"):
        training.timed(run, maml, begin, 1, 5, inside=True)


def test_rate_counts_tasks_over_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 3 tasks that take half a second each: 6 per second."""
    time = stopped_time(monkeypatch, batch=500.0)

    class Two:
        def __iter__(self) -> Any:
            for _ in range(2):
                time.spend("batch")
                yield 3

    assert training.rate(Two(), lambda tasks: tasks, seconds=4) == pytest.approx(6.0)


def test_the_row_of_a_fit() -> None:
    """1 + 4 + 2 + 1.5 + 0.5 + 1 = 10 ms; overhead 1 + 1.5 + 0.5."""
    parts = {"loader": 1, "engine": 4, "optimizer": 2, "trainer": 1.5, "logging": 0.5}
    bare = {"update_ms": 8.0, "start_s": 2.0, "fit_s": 9.0}
    inside = {"parts_ms": {**parts, "validation": 1.0}, "clock_ms": 0.02}
    row = training.fit_row({"config": "a/b.yaml", "bare": [bare], "timed": [inside]})
    assert row[:3] == ["b", "125 (125 to 125)", "100"]
    assert row[3:9] == ["10.0%", "40.0%", "20.0%", "15.0%", "5.0%", "10.0%"]
    assert row[9:] == ["3.000", "0.020", "2.0", "9.0"]


def test_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its runs in this process."""

    def here(script: str, case: dict[str, Any], folder: Path) -> dict[str, Any]:
        return training.RUNS[case["kind"]]({**case, "folder": str(folder)})

    config, out = tmp_path / "small.yaml", tmp_path / "out.json"
    config.write_text(CONFIG)
    monkeypatch.setattr(training, "in_child", here)
    monkeypatch.setattr(training, "WORKERS", (0,))
    command = f"training.py --config {config} --updates 3 --warm-up 1 --turns 2 --seconds 0.01"
    quiet = ["--trainer.enable_progress_bar=false", "--data.seed=4"]
    monkeypatch.setattr(sys, "argv", [*command.split(), "--json", str(out), *quiet])
    training.main()
    printed = capsys.readouterr().out
    assert command in printed
    assert f"torch {torch.__version__.partition('+')[0]}" in printed
    assert "seed 0" in printed
    assert printed.count("| small |") == 2
    (result,) = json.loads(out.read_text())["results"]
    assert [len(result[kind]) for kind in ("bare", "timed", "loader")] == [2, 2, 2]


def test_other_trainings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(LightningModule):
        pass

    other = SimpleNamespace(model=Other(), trainer=Trainer(logger=False), datamodule=None)
    monkeypatch.setattr(training, "Built", lambda args, folder: other)
    case = {"config": "c.yaml", "flags": [], "device": "cpu", "warm_up": 1, "updates": 1}
    with pytest.raises(SystemExit, match=r"`--config` must be .* got Other in c.yaml"):
        training.run_fit({**case, "folder": str(tmp_path), "inside": True})
