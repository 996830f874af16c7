"""Freed memory stays with the process while a run goes on, and is returned afterwards."""

import platform
import subprocess
import sys

import pytest
from lightning.pytorch import Callback, Trainer

from datamodules import Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.models import MLP
from lightning_maml.run import freed_memory
from lightning_maml.run.freed_memory import BY_THE_USER, keep_freed_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's malloc")

# Page faults of making and freeing 64 MB ten times: each page anew, or each once. A fit between.
SCRIPT = """
import resource, torch
from pathlib import Path
from lightning.pytorch import Callback, Trainer
from datamodules import Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.models import MLP

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.zeros(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) // 1024

class Count(Callback):
    def on_train_start(self, *_):
        before = resident()
        print(faults(), faults(), resident() - before)

before = resident()
print(faults(), 0, 0)
trainer = Trainer(max_steps=1, accelerator="cpu", callbacks=[Count()], limit_val_batches=0,
                  logger=False, enable_checkpointing=False, enable_progress_bar=False,
                  enable_model_summary=False)
trainer.fit(MetaLearner(MLP(1, 1, [4]), loss="mse", inner_lr=0.1), Sinusoid())
print(faults(), 0, resident() - before)
"""


def test_kept_during_a_fit_and_returned_after_it(monkeypatch) -> None:
    for name in (*BY_THE_USER, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    rows = [[int(number) for number in line.split()] for line in done.stdout.splitlines()]
    before, during, after = rows
    assert during[1] < before[0] / 100
    assert during[2] > 50  # MB
    assert after[0] > before[0] / 20  # returned pages are new ones again
    assert after[2] < during[2] + 50  # as much as the fit's own


@pytest.mark.parametrize("name", [*BY_THE_USER, "GLIBC_TUNABLES"])
def test_what_the_environment_says_stays(monkeypatch, name) -> None:
    monkeypatch.setenv(name, "glibc.malloc.trim_threshold=1000000")
    assert not keep_freed_memory()


class Within(Callback):
    """Another run within the run, then an error."""

    def on_train_start(self, trainer, pl_module) -> None:
        trainer_of(limit_val_batches=1).validate(pl_module, Sinusoid(), verbose=False)
        raise ZeroDivisionError


def trainer_of(*callbacks: Callback, **settings) -> Trainer:
    settings |= {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        accelerator="cpu", callbacks=[*callbacks], enable_model_summary=False, **settings
    )


def test_returned_once_the_outermost_run_ends_by_an_error_too(monkeypatch) -> None:
    said = []
    monkeypatch.setattr(freed_memory, "keep_freed_memory", lambda: said.append("keep"))
    monkeypatch.setattr(freed_memory, "return_freed_memory", lambda: said.append("return"))
    learner = MetaLearner(MLP(1, 1, [4]), loss="mse", inner_lr=0.1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            trainer_of(Within(), max_steps=1).fit(learner, Sinusoid())
    assert said == ["keep", "keep", "return"] * 2
