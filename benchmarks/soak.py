"""Trains and validates for long, and watches what a leak would move: memory, files, threads.

python benchmarks/soak.py --updates 200000 --rounds 1000 --out soak.svg

After the first tenth of the rounds the resident memory must grow by less than 2%, and the numbers
of open files and threads must stay as they are. Needs Linux (/proc).
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from datamodules import Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.models import MLP

MAX_GROWTH = 0.02
"""Share of the memory after the first tenth by which it may grow."""


class Sample(NamedTuple):
    """What a process has after a number of meta-updates; memory in bytes."""

    updates: int
    memory: int
    files: int
    threads: int


def sample(updates: int) -> Sample:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))
    return Sample(updates, pages * os.sysconf("SC_PAGE_SIZE"), files, threads)


class Watch(Callback):
    """Takes a sample after each validation."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take it."""
        self.samples.append(sample(trainer.global_step))


def soak(updates: int, rounds: int, folder: Path) -> list[Sample]:
    """Train sinusoids, with `rounds` validations and checkpoints; a sample after each."""
    seed_everything(0, verbose=False)
    watch = Watch()
    trainer = Trainer(
        max_steps=updates,
        max_epochs=-1,
        accelerator="cpu",
        logger=CSVLogger(folder),
        log_every_n_steps=10,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            watch,
            ModelCheckpoint(folder, monitor="val/loss", save_on_train_epoch_end=False),
        ],
    )
    data = Sinusoid(
        meta_batch_size=25, val_tasks=100, train_batches_per_epoch=max(1, updates // rounds)
    )
    trainer.fit(MetaLearner(MLP(), loss="mse"), data)
    return watch.samples


def faults(samples: list[Sample]) -> list[str]:
    """What grew after the first tenth, in words.

    >>> faults([Sample(n, 100 + 5 * (n > 15), 3, 1) for n in range(20)])
    ['memory grew by 5.0%']
    """
    first, *rest = samples[len(samples) // 10 :]
    growth = max(one.memory for one in rest) / first.memory - 1
    found = [f"memory grew by {growth:.1%}"] if growth >= MAX_GROWTH else []
    for name in ("files", "threads"):
        values = {getattr(one, name) for one in (first, *rest)}
        if len(values) > 1:
            found.append(f"{name} changed: {sorted(values)}")
    return found


def draw(samples: list[Sample], path: Path) -> None:
    """The memory over the meta-updates."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot([one.updates for one in samples], [one.memory / 1e6 for one in samples])
    axes.set(xlabel="meta-updates", ylabel="resident memory (MB)", ylim=(0, None))
    figure.savefig(path)


def main(args: list[str] | None = None) -> int:
    """Run, print what was seen, draw; returns the exit code, 1 if something grew."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--updates", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--out", type=Path, help="picture of the memory, .svg or .png")
    given = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as folder:
        samples = soak(given.updates, given.rounds, Path(folder))
    for one in samples[:: max(1, len(samples) // 20)]:
        print(
            f"{one.updates:8} updates: {one.memory / 1e6:7.1f} MB, {one.files} files, "
            f"{one.threads} threads"
        )
    if given.out is not None:
        draw(samples, given.out)
    found = faults(samples)
    print(f"{len(samples)} rounds: " + ("; ".join(found) or "nothing grew"))
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
