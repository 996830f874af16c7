"""Whether each episodic method learns from labels, and from nothing else, by a short training.

    python benchmarks/learns.py --out benchmarks/results
    python benchmarks/learns.py "prototypical nets" MANN --seed 1

Each method is trained twice on 5-way 1-shot tasks of generated characters: as they are, and with
the labels of each task's query images shuffled, so that no image says anything about its own. The
first must come to chance + 20 points on test tasks of unseen characters. The second is tested on
shuffled labels as well, and on those plus 1 .. 4: each query image has each label once, so that the
five accuracies have the mean 1/5, for whatever does not see a query's label.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch import nn

from datamodules import Glyphs
from lightning_maml.baselines import (
    MANN,
    EpisodicLearner,
    MatchingNets,
    MemoryModule,
    MetaLSTM,
    NeuralStatistician,
    PrototypicalNets,
    SiameseNets,
)
from lightning_maml.confidence import mean_and_ci95
from lightning_maml.episode import Episode
from lightning_maml.models import Conv4, ConvEmbedding
from lightning_maml.run.files import write_whole
from lightning_maml.run.provenance import surroundings
from timed_fit import heading, table

N_WAY, CHANCE, MARGIN, TEST_TASKS = 5, 0.2, 0.2, 600
LEGEND = (
    f"{TEST_TASKS} test tasks, {N_WAY}-way 1-shot, of generated characters (`datamodules.Glyphs`), "
    "95% intervals over tasks. Learned is what comes to chance (20%) + 20 points. With shuffled "
    "labels no method may be above chance, and the mean over their shifts is exactly 20% for one "
    "that sees no query's label."
)


@dataclass(frozen=True)
class Course:
    """How a method is trained.

    Attributes:
        tasks: of an update.
        clip: norm that gradients are clipped to, None: not.
    """

    method: Callable[[], nn.Module]
    updates: int
    tasks: int = 2
    query_shot: int = 5
    meta_lr: float = 0.001
    clip: float | None = None


def generated(course: Course, seed: int) -> Glyphs:
    """The tasks."""
    return Glyphs(
        N_WAY, 1, course.query_shot, eval_query_shot=1, meta_batch_size=course.tasks,
        train_batches_per_epoch=course.updates, test_tasks=TEST_TASKS, seed=seed,
    )  # fmt: skip


COURSES = {
    "matching nets, cosine": Course(lambda: MatchingNets(ConvEmbedding()), 300),
    "matching nets, squared Euclidean": Course(
        lambda: MatchingNets(ConvEmbedding(), distance="euclidean"), 300
    ),
    "matching nets, full context": Course(
        lambda: MatchingNets(ConvEmbedding(), context_steps=3, features=64), 300
    ),
    "prototypical nets": Course(lambda: PrototypicalNets(ConvEmbedding()), 300),
    "Siamese nets": Course(lambda: SiameseNets(ConvEmbedding(), features=64), 300),
    "memory module": Course(lambda: MemoryModule(ConvEmbedding(), features=64), 300, clip=5.0),
    "neural statistician": Course(
        lambda: NeuralStatistician(channels=16, warm_up=100), 400, query_shot=4
    ),
    "meta-learner LSTM": Course(
        lambda: MetaLSTM(Conv4(N_WAY, image_size=28, channels=8), steps=5), 300, 1, clip=0.25
    ),
    "MANN": Course(lambda: MANN(N_WAY), 2_000, 16),
}


class ShuffledLabels(LightningDataModule):
    """Other tasks with the query labels of each shuffled, and then shifted.

    Args:
        data: has the tasks.
        shift: added to each label, modulo `N_WAY`; the order does not depend on it.
    """

    def __init__(self, data: Glyphs, seed: int, shift: int = 0) -> None:
        super().__init__()
        self.data, self.shift = data, shift
        self.generator = torch.Generator().manual_seed(seed)

    def train_dataloader(self) -> Any:
        """Of the other."""
        return self.data.train_dataloader()

    def test_dataloader(self) -> Any:
        """Of the other."""
        return self.data.test_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Episode:
        """A query's label is any class, each as likely; a task has as many of each as before."""
        episode: Episode = self.data.on_after_batch_transfer(batch, dataloader_idx)
        order = torch.rand(episode.query_y.shape, generator=self.generator).argsort(dim=1)
        return episode._replace(query_y=(episode.query_y.gather(1, order) + self.shift) % N_WAY)


@dataclass(frozen=True)
class Lesson:
    """What a method learned: accuracies with their 95% intervals over tasks.

    Attributes:
        learned: from true labels.
        shuffled: from shuffled labels, and tested with such.
        shifted: the mean of the latter over all shifts of the labels.
    """

    learned: tuple[float, float]
    shuffled: tuple[float, float]
    shifted: float

    @property
    def passed(self) -> bool:
        """Whether it learned from true labels, and saw no query's label."""
        above = self.learned[0] - self.learned[1] > CHANCE + MARGIN
        return above and abs(self.shifted - CHANCE) < 1e-6


def lesson(course: Course, data: Glyphs, seed: int) -> tuple[Lesson, Trainer]:
    """Both trainings, and what came of them. What a test writes is not kept."""
    with TemporaryDirectory() as folder:
        learner, trainer = trained(course, data, seed, folder)
        learned = tested(learner, trainer, data)
        learner, trainer = trained(course, ShuffledLabels(data, seed), seed, folder)
        others = (ShuffledLabels(data, seed + 1, shift) for shift in range(N_WAY))
        found = [tested(learner, trainer, other) for other in others]
    return Lesson(learned, found[0], sum(mean for mean, _ in found) / N_WAY), trainer


def trained(
    course: Course, data: LightningDataModule, seed: int, folder: str
) -> tuple[EpisodicLearner, Trainer]:
    """By Adam; weights, too, follow from the seed."""
    seed_everything(seed, verbose=False)
    learner = EpisodicLearner(course.method(), course.meta_lr, clip_meta_grad_norm=course.clip)
    trainer = Trainer(
        max_steps=course.updates, max_epochs=-1, accelerator="cpu", limit_val_batches=0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(learner, datamodule=data)
    return learner, trainer


def tested(
    learner: EpisodicLearner, trainer: Trainer, data: LightningDataModule
) -> tuple[float, float]:
    """Accuracy on the test tasks, and its 95% interval."""
    trainer.test(learner, datamodule=data, verbose=False)
    mean, ci95 = mean_and_ci95(learner.curve.collected()[0].metric[-1].double())
    return float(mean), float(ci95)


def cells(name: str, course: Course, found: Lesson) -> list[str]:
    """A row of the table, in %."""
    learned, shuffled = (
        f"{100 * mean:.2f} +- {100 * ci95:.2f}" for mean, ci95 in (found.learned, found.shuffled)
    )
    return [
        name, f"{course.updates:,} of {course.tasks}", learned, "yes" if found.passed else "NO",
        shuffled, f"{100 * found.shifted:.4f}",
    ]  # fmt: skip


HEAD = (
    "method", "updates, of tasks", "accuracy, %", "learns", "trained and tested on shuffled labels",
    "mean over their shifts",
)  # fmt: skip


def main() -> None:
    """Print, and keep, the table.

    Raises:
        SystemExit: if a method does not learn, or sees a query's label.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(COURSES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write it into this folder, too")
    options = parser.parse_args()
    if unknown := [name for name in options.methods if name not in COURSES]:
        parser.error(f"METHOD must be among {list(COURSES)}, got {unknown[0]!r}")
    if options.methods and options.out:
        parser.error("--out keeps the table of all methods; leave METHOD away")
    rows, failed = [], []
    for name in options.methods or COURSES:
        course = COURSES[name]
        found, trainer = lesson(course, generated(course, options.seed), options.seed)
        rows.append(cells(name, course, found))
        print(" | ".join(rows[-1]), flush=True)
        if not found.passed:
            failed.append(name)
    text = f"# What a short training teaches\n\n{heading(surroundings(trainer))} {LEGEND}\n\n"
    text += table(HEAD, rows) + "\n"
    print(f"\n{text}")
    if options.out:
        path = options.out / f"learns_cpu_{date.today()}.md"
        write_whole(path, lambda file: file.write(text))
    if failed:
        raise SystemExit(f"not learned: {', '.join(failed)}")


if __name__ == "__main__":
    main()
