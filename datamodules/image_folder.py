"""Images of one's own: a folder of class folders."""

import logging
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, final

from datamodules.class_batches import checked_size, with_class_batches
from datamodules.class_folders import (
    ClassFiles,
    FolderImages,
    list_classes,
    none_at,
    split_folders,
)
from datamodules.class_splits import ClassSplit
from datamodules.episode_loader import TaskSampler
from datamodules.episodic import EpisodicDataModule
from datamodules.image_cache import ClassImages, cache_folder, cached_images
from datamodules.image_episodes import check_enough, image_tasks
from datamodules.image_reading import ImageSpec
from datamodules.settings import Batches, Count, Shots, check_at_least
from datamodules.split_checks import check_disjoint_images, check_disjoint_names
from lightning_maml.argument_types import check_types

SMALLEST = 3  # so many of the smallest classes are named in the summary

log = logging.getLogger(__name__)


@final
class ImageFolder(EpisodicDataModule):
    """A folder with one folder of images per class, channels in [0, 1].

    `root` holds either train/, val/ (or validation/) and test/ with class folders in each, or the
    class folders themselves, which are then split: no class is in two splits. A split may be
    missing if nothing asks for its tasks. Images may have any size, mode and usual format; hidden
    files and folders and other files are ignored.

    Args:
        root: the folder
        n_way: classes per task; a range, [5, 20], for numbers that every training batch draws anew
        k_shot: support images per class, or a range
        query_shot: query images per class in training, or a range
        eval_n_way: `n_way` in validation and test, None for that of training (if it is no range)
        eval_k_shot: the same of `k_shot`
        eval_query_shot: the same of `query_shot`
        meta_batch_size: training tasks per batch (and process)
        eval_batch_size: tasks per evaluation batch
        train_batches_per_epoch: length of an epoch
        val_tasks: fixed validation tasks
        test_tasks: fixed test tasks
        image_size: height and width that images are resized to, without keeping the aspect
        channels: 3 for RGB, 1 for grey
        invert: dark ink on white paper becomes bright on black
        fractions: of the classes, for training, validation and test; if they sum to less than 1,
            the rest is not used. None for 0.64, 0.16 and 0.2
        classes: instead of fractions, the names of the classes of `train`, `val` and `test`
        split_seed: which classes the fractions are; `seed` does not move them
        cache_dir: where the read images are kept; None for beside the data
        augment: crop, flip, color and same_for_class for training images (augmentation.py), e.g.
            {crop: 8, flip: true, color: 0.4}; None: images as they are
        class_batch_size: if given, training batches are no tasks, but so many images of all
            training classes with their class numbers, `meta_batch_size` times (class_batches.py)
        seed: tasks are a function of (seed, split, task number) alone
        num_workers: loader processes

    Raises:
        ValueError: naming the setting that is out of range.
    """

    def __init__(
        self,
        root: str = "data",
        n_way: Count = 5,
        k_shot: Count = 1,
        query_shot: Count = 1,
        eval_n_way: int | None = None,
        eval_k_shot: int | None = None,
        eval_query_shot: int | None = None,
        meta_batch_size: int = 4,
        eval_batch_size: int = 4,
        train_batches_per_epoch: int = 500,
        val_tasks: int = 200,
        test_tasks: int = 600,
        image_size: int = 84,
        channels: int = 3,
        invert: bool = False,
        fractions: tuple[float, float, float] | None = None,
        classes: dict[str, list[str]] | None = None,
        split_seed: int = 0,
        cache_dir: str | None = None,
        augment: dict[str, Any] | None = None,
        class_batch_size: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_types(ImageFolder.__init__, locals())
        super().__init__(
            Batches(
                meta_batch_size=meta_batch_size,
                eval_batch_size=eval_batch_size,
                train_batches_per_epoch=train_batches_per_epoch,
                val_tasks=val_tasks,
                test_tasks=test_tasks,
                seed=seed,
                num_workers=num_workers,
            ),
            augment,
        )
        self.save_hyperparameters()
        self.shots = Shots(n_way, k_shot, query_shot, eval_n_way, eval_k_shot, eval_query_shot)
        check_at_least("image_size", image_size, 1)
        self.class_batch_size = checked_size(class_batch_size)
        self.spec = ImageSpec(image_size, channels, invert)
        self.split = ClassSplit(fractions, classes, split_seed)
        self.root = Path(root).expanduser()
        self.cache_dir = cache_dir

    @cached_property
    def files(self) -> dict[str, ClassFiles]:
        """The image files of each class of each split that is there, listed once.

        Raises:
            FileNotFoundError: if `root` is no folder.
            ValueError: if splits share classes, or one has too few classes or images.
        """
        splits = self._list()
        log.info(summary(self.root, splits))
        check_disjoint_names(splits)
        for split, files in splits.items():
            check_enough({name: len(paths) for name, paths in files.items()}, self.shots, split)
        return splits

    def prepare_data(self) -> None:
        """Read the images into their cache files."""
        self.class_images()

    def load_tasks(self) -> dict[str, TaskSampler]:
        """One sampler for each split that is there."""
        images, seed = self.class_images(), self.batches.seed
        samplers = image_tasks(images, self.shots, seed)
        return with_class_batches(samplers, images, seed, self.class_batch_size)

    def class_images(self) -> dict[str, ClassImages]:
        """The images of each split that is there.

        Raises:
            FileNotFoundError: if `root` is no folder.
            ValueError: also if splits share pictures, or an image is corrupt.
        """
        cache = cache_folder(self.root, self.cache_dir)
        images = {
            split: cached_images(
                FolderImages(files, self.spec, f"{self.root.resolve().name}-{split}"), cache
            )
            for split, files in self.files.items()
        }
        check_disjoint_images(images)
        return images

    def _list(self) -> dict[str, ClassFiles]:
        if not self.root.is_dir():
            raise FileNotFoundError(
                "`root` must be a folder with a folder of images per class, or with train/, val/ "
                f"and test/ of such folders, got {none_at(self.root)}."
            )
        folders = split_folders(self.root)
        if not folders:
            return self.split(list_classes(self.root))
        if self.split.given is not None:
            there = ", ".join(f"{place.name}/" for place in folders.values())
            raise ValueError(
                f"`{self.split.given}` must not be given where `root` has splits of its own, "
                f"got {self.root} with {there}."
            )
        return {split: list_classes(place) for split, place in folders.items()}


def summary(root: Path, splits: Mapping[str, ClassFiles]) -> str:
    """Classes and images of each split, a line each, with the smallest classes."""
    lines = [f"Images in {root}:"]
    for split, files in splits.items():
        counts = {name: len(paths) for name, paths in files.items()}
        line = f"  {split}: {len(counts)} classes, {sum(counts.values())} images"
        if counts:
            by_size = sorted(counts, key=lambda name: counts[name])
            fewest, most = counts[by_size[0]], counts[by_size[-1]]
            line += f", {fewest} to {most} per class (fewest: {', '.join(by_size[:SMALLEST])})"
        lines.append(line)
    return "\n".join(lines)
