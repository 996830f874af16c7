"""Omniglot (Sec. 5.2, App. A.1): 1623 characters, each in four rotations as four classes."""

from pathlib import Path
from typing import Any, final

from datamodules.class_folders import ClassFiles, FolderImages, list_classes
from datamodules.class_splits import split_by_sizes
from datamodules.episode_loader import TaskSampler
from datamodules.episodic import EpisodicDataModule
from datamodules.image_cache import ClassImages, cache_folder, cached_images
from datamodules.image_episodes import image_tasks
from datamodules.image_reading import ImageSpec
from datamodules.settings import Batches, Count, Shots, check_split_sizes
from lightning_maml.argument_types import check_types

SPEC = ImageSpec(size=28, channels=1, invert=True)
ROTATIONS = 4
SPLIT_SEED = 1623  # of the split alone; a run's `seed` does not move it
FOLDERS = ("images_background", "images_evaluation")
PLACES = (".", "omniglot-py", "omniglot", "python")


@final
class Omniglot(EpisodicDataModule):
    """Omniglot, 28x28, ink = 1 on paper = 0, one channel.

    The characters are sorted by alphabet and name and split by a fixed shuffle of that list: the
    split depends neither on `seed` nor on the file system. Rotations are made after the split, so
    a test character is in no training class in any rotation. 1100 characters are for training:
    the authors' code takes 100 of the paper's 1200 for validation.

    Args:
        root: the folder `omniglot-py`, or `images_background` and `images_evaluation`, is in
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
        characters: characters for training, validation and test
        download: fetch the data to `root` through torchvision if it is not there
        cache_dir: where the read images are kept; None for beside the data
        augment: crop, flip, color and same_for_class for training images (augmentation.py), e.g.
            {crop: 8, flip: true, color: 0.4}; None: images as they are
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
        meta_batch_size: int = 32,
        eval_batch_size: int = 20,
        train_batches_per_epoch: int = 500,
        val_tasks: int = 200,
        test_tasks: int = 600,
        characters: tuple[int, int, int] = (1100, 100, 423),
        download: bool = False,
        cache_dir: str | None = None,
        augment: dict[str, Any] | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_types(Omniglot.__init__, locals())
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
        check_split_sizes("characters", characters)
        self.shots = Shots(n_way, k_shot, query_shot, eval_n_way, eval_k_shot, eval_query_shot)
        self.root = Path(root).expanduser()
        self.characters = characters
        self.download = download
        self.cache_dir = cache_dir

    def prepare_data(self) -> None:
        """Download if asked to and needed; read the images into their cache files."""
        if self.download and _find(self.root) is None:
            _download(self.root)
        self.class_images()

    def load_tasks(self) -> dict[str, TaskSampler]:
        """One sampler per split, over four rotations of its characters."""
        return image_tasks(self.class_images(), self.shots, self.batches.seed, ROTATIONS)

    def class_images(self) -> dict[str, ClassImages]:
        """The characters of each split, not yet rotated.

        Raises:
            FileNotFoundError: saying where was looked for what, if there is no data.
            ValueError: if the characters are not as many as `characters` says.
        """
        folder = _find(self.root)
        if folder is None:
            raise FileNotFoundError(_missing(self.root))
        cache = cache_folder(folder, self.cache_dir)
        splits = split_characters(_list_characters(folder), self.characters)
        return {
            split: cached_images(FolderImages(files, SPEC, f"omniglot-{split}"), cache)
            for split, files in splits.items()
        }


def split_characters(characters: ClassFiles, sizes: tuple[int, int, int]) -> dict[str, ClassFiles]:
    """The characters of each split, sorted by name: consecutive parts of one fixed shuffle.

    Raises:
        ValueError: if `sizes` do not sum to the number of characters.
    """
    found = len(characters)
    if sum(sizes) != found:
        raise ValueError(
            f"`characters` must sum to {found} (characters found; all of Omniglot has 1623), "
            f"got {' + '.join(map(str, sizes))} = {sum(sizes)}."
        )
    return split_by_sizes(characters, sizes, SPLIT_SEED)


def _list_characters(folder: Path) -> ClassFiles:
    background, evaluation = (list_classes(folder / name, depth=2) for name in FOLDERS)
    both = sorted(set(background) & set(evaluation))
    if both:
        raise ValueError(f"{folder}: in both of {' and '.join(FOLDERS)}: {', '.join(both)}.")
    return background | evaluation


def _find(root: Path) -> Path | None:
    folders = (root / place for place in PLACES)
    return next((f for f in folders if all((f / name).is_dir() for name in FOLDERS)), None)


def _missing(root: Path) -> str:
    places = ", ".join(str(root / place) for place in PLACES)
    return (
        f"no Omniglot under `root` = {root} ({root.absolute()}). Looked for the folders "
        f"{FOLDERS[0]}/ and {FOLDERS[1]}/ (alphabets, characters, images) in {places}. Set "
        "`download: true` to fetch it with torchvision, or unzip images_background.zip and "
        "images_evaluation.zip of https://github.com/brendenlake/omniglot (folder python) there."
    )


def _download(root: Path) -> None:
    import torchvision  # slow, and needed here only

    try:
        for background in (True, False):
            torchvision.datasets.Omniglot(str(root), background=background, download=True)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"{_missing(root)} The download failed: {error}") from error
