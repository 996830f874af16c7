"""What the datamodules share: loaders over tasks, this rank's share, images to floats."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.augmentation import Augmented, AugmentedTasks, augmentation_from
from datamodules.episode_loader import TaskSampler, evaluation_loader, training_loader
from datamodules.settings import Batches
from datamodules.varying_sizes import VaryingTasks
from lightning_maml.episode import Episode, TaskBatch


def image_as_float(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images as floats in [0, 1]; anything else as it is."""
    return x.to(dtype).div_(255) if x.dtype == torch.uint8 else x


def dtype_of_model(trainer: Trainer | None) -> torch.dtype:
    """What the model that `trainer` runs computes in; float32 where there is none."""
    module = trainer.lightning_module if trainer else None
    dtype = module.dtype if module is not None else torch.float32
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


class EpisodicDataModule(LightningDataModule):
    """Serves the tasks that a subclass's `load_tasks` makes for each split.

    Training goes through new tasks for ever; validation, test and predict (the test tasks) see
    the same tasks each time. Ranks of a distributed run take disjoint tasks, with or without the
    Trainer's `use_distributed_sampler`.
    """

    def __init__(self, batches: Batches, augment: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.batches = batches
        self.augmentation = augmentation_from(augment)
        self.tasks: dict[str, TaskSampler] = {}

    def load_tasks(self) -> dict[str, TaskSampler]:
        """The task samplers of the splits `train`, `val` and `test`, or of those that are there."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read what was prepared, once, and check that the settings fit it."""
        if not self.tasks:
            self.tasks = self.load_tasks()

    def train_dataloader(self) -> DataLoader[Episode | TaskBatch]:
        """`train_batches_per_epoch` batches of `meta_batch_size` new tasks."""
        rank, ranks = self._rank()
        sampler = self._sampler("train")
        if isinstance(sampler, VaryingTasks):  # ranks in one step have the same sizes
            sampler = sampler.in_batches_of(self.batches.meta_batch_size * ranks)
        if self.augmentation is not None:  # an episode again once it is on the device
            augmented = AugmentedTasks(sampler, self.augmentation, self.batches.seed, "train")
            sampler = cast(TaskSampler, augmented)
        return training_loader(
            sampler,
            self.batches.meta_batch_size,
            self.batches.train_batches_per_epoch,
            rank,
            ranks,
            self.batches.num_workers,
        )

    def val_dataloader(self) -> DataLoader[Episode | TaskBatch]:
        """The `val_tasks` validation tasks."""
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Episode | TaskBatch]:
        """The `test_tasks` test tasks."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Episode | TaskBatch]:
        """The test tasks."""
        return self.test_dataloader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Images travel as uint8; on the device they become floats in [0, 1] and are augmented."""
        if isinstance(batch, Augmented):
            assert self.augmentation is not None
            return self.augmentation(batch._replace(episode=self._in_floats(batch.episode)))
        return self._in_floats(batch) if isinstance(batch, Episode) else batch

    def _in_floats(self, episode: Episode) -> Episode:
        dtype = dtype_of_model(self.trainer)
        return episode._replace(
            support_x=image_as_float(episode.support_x, dtype),
            query_x=image_as_float(episode.query_x, dtype),
        )

    def _evaluation(self, split: str) -> DataLoader[Episode | TaskBatch]:
        rank, ranks = self._rank()
        sampler = self._sampler(split)  # may count the tasks there are
        name = f"{split}_tasks"
        tasks: int = getattr(self.batches, name)
        if tasks < ranks:
            raise ValueError(
                f"`{name}` must be at least {ranks} (one task per process), got {tasks}."
            )
        return evaluation_loader(
            sampler,
            self.batches.eval_batch_size,
            tasks,
            rank,
            ranks,
            self.batches.num_workers,
        )

    def _sampler(self, split: str) -> TaskSampler:
        self.setup()
        if split not in self.tasks:
            raise ValueError(
                f"there are no tasks for the {split} split, only for {', '.join(self.tasks)}."
            )
        return self.tasks[split]

    def _rank(self) -> tuple[int, int]:
        """This process's number and the number of processes; alone without a Trainer."""
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size
