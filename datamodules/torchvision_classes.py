"""Any labelled data set of torchvision, split by class."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from datamodules.class_splits import ClassSplit
from datamodules.episode_loader import TaskSampler
from datamodules.episodic import EpisodicDataModule
from datamodules.image_cache import ClassImages, cache_folder, cached_images
from datamodules.image_episodes import image_tasks
from datamodules.image_reading import ImageSpec
from datamodules.labelled_images import LabelledImages, classes_of, make_part, origin_of
from datamodules.settings import Batches, Count, Shots, check_at_least
from datamodules.split_checks import check_disjoint_images
from lightning_maml.argument_types import check_types

log = logging.getLogger(__name__)


@final
class TorchvisionClasses(EpisodicDataModule):
    """The classes of a data set of torchvision, or of a class of one's own like those.

    Its items are (PIL image, class number). The images of all `parts` are put together, since
    tasks are split by class: no class is in two splits. A split may be missing if nothing asks
    for its tasks. The same picture in two splits is said, not refused: data sets come as they are.

    Args:
        dataset: a class of `torchvision.datasets`, such as CIFAR100, or an import path
        parts: arguments of each part, e.g. [{train: true}, {train: false}]
        root: where torchvision keeps its data sets, for those that take it
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
        classes: instead of fractions, the names of the classes of `train`, `val` and `test`, as
            the data set's `classes` has them
        split_seed: which classes the fractions are; `seed` does not move them
        download: have torchvision fetch the data to `root` if it is not there
        cache_dir: where the read images are kept; None for under `root`
        augment: crop, flip, color and same_for_class for training images (augmentation.py), e.g.
            {crop: 8, flip: true, color: 0.4}; None: images as they are
        seed: tasks are a function of (seed, split, task number) alone
        num_workers: loader processes

    Raises:
        ValueError: naming the setting that is out of range.
    """

    def __init__(
        self,
        dataset: str = "CIFAR100",
        parts: tuple[dict[str, Any], ...] = ({},),
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
        download: bool = False,
        cache_dir: str | None = None,
        augment: dict[str, Any] | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_types(TorchvisionClasses.__init__, locals())
        loading = (val_tasks, test_tasks, seed, num_workers)
        super().__init__(
            Batches(meta_batch_size, eval_batch_size, train_batches_per_epoch, *loading), augment
        )
        self.save_hyperparameters()
        self.shots = Shots(n_way, k_shot, query_shot, eval_n_way, eval_k_shot, eval_query_shot)
        check_at_least("image_size", image_size, 1)
        self.spec = ImageSpec(image_size, channels, invert)
        self.split = ClassSplit(fractions, classes, split_seed)
        if not parts:
            raise ValueError("`parts` must hold the arguments of at least one part, got none.")
        self.dataset, self.parts, self.download = dataset, tuple(parts), download
        self.root, self.cache_dir = Path(root).expanduser(), cache_dir

    def prepare_data(self) -> None:
        """Download if asked to; read the images into their cache files."""
        if self.download:
            self._make_parts(download=True)
        self.class_images()

    def load_tasks(self) -> dict[str, TaskSampler]:
        """One sampler for each split that is there."""
        return image_tasks(self.class_images(), self.shots, self.batches.seed)

    def class_images(self) -> dict[str, ClassImages]:
        """The images of each split that is there.

        Raises:
            FileNotFoundError: if the data set is not there.
            ValueError: naming the setting that does not fit the data set.
        """
        made = self._make_parts(download=False)
        origin = [origin_of(self.dataset, arguments) for arguments in self.parts]
        name = self.dataset.rpartition(".")[2].lower()
        cache = cache_folder(self.root, self.cache_dir)
        splits = self.split(classes_of(made))
        images = {
            split: cached_images(
                LabelledImages(made, origin, classes, self.spec, f"{name}-{split}"), cache
            )
            for split, classes in splits.items()
        }
        say_shared(name, images)
        return images

    def _make_parts(self, download: bool) -> list[Any]:
        return [make_part(self.dataset, self.root, given, download) for given in self.parts]


def say_shared(name: str, images: Mapping[str, ClassImages]) -> None:
    """Warn if the same picture is in two splits."""
    try:
        check_disjoint_images(images)
    except ValueError as error:
        log.warning("%s: %s", name, error)
