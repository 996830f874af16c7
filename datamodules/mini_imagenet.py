"""mini-ImageNet (Sec. 5.2) in the split of Ravi & Larochelle: 64 / 16 / 20 classes.

(The paper says 64 / 12 / 24, which nobody has; its results are on this split, too.)
"""

from pathlib import Path
from typing import Any, final

from datamodules.class_batches import checked_size, with_class_batches
from datamodules.download import fetch, zenodo_files
from datamodules.episode_loader import TaskSampler
from datamodules.episodic import EpisodicDataModule
from datamodules.image_cache import ClassImages, cache_folder, cached_images
from datamodules.image_episodes import image_tasks
from datamodules.mini_layouts import PLACES, find_layout
from datamodules.settings import Batches, Count, Shots
from datamodules.split_checks import check_disjoint_images, check_disjoint_names
from lightning_maml.argument_types import check_types

ZENODO = "https://zenodo.org"
ZENODO_RECORD = "7978538"
PICKLES = tuple(f"mini-imagenet-cache-{name}.pkl" for name in ("train", "validation", "test"))

# Pictures that mini-ImageNet itself holds twice, in a training and in a validation class: the
# five that are known, and a sixth, byte for byte the same in the copy that this was tested on.
SHARED_PICTURES = {("n03888605", "n03535780"): 5, ("n04389033", "n02950826"): 1}


@final
class MiniImagenet(EpisodicDataModule):
    """mini-ImageNet, 84x84, three channels in [0, 1].

    Args:
        root: where the data is, as class folders train/ val/ test/, as images/ with train.csv,
            val.csv and test.csv, or as mini-imagenet-cache-{train,val,test}.pkl
        n_way: classes per task; a range, [5, 20], for numbers that every training batch draws anew
        k_shot: support images per class, or a range
        query_shot: query images per class in training, or a range
        eval_n_way: `n_way` in validation and test, None for that of training (if it is no range)
        eval_k_shot: the same of `k_shot`
        eval_query_shot: the same of `query_shot`
        meta_batch_size: training tasks per batch (and process)
        eval_batch_size: tasks per evaluation batch
        train_batches_per_epoch: length of an epoch
        class_batch_size: if given, training batches are no tasks, but so many images of all
            training classes with their class numbers, `meta_batch_size` times (class_batches.py)
        val_tasks: fixed validation tasks
        test_tasks: fixed test tasks
        download: fetch the pickles to `root` from Zenodo if there is no data
        cache_dir: where the read images are kept (1.3 GB); None for beside the data
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
        query_shot: Count = 15,
        eval_n_way: int | None = None,
        eval_k_shot: int | None = None,
        eval_query_shot: int | None = None,
        meta_batch_size: int = 2,
        eval_batch_size: int = 4,
        train_batches_per_epoch: int = 500,
        class_batch_size: int | None = None,
        val_tasks: int = 200,
        test_tasks: int = 600,
        download: bool = False,
        cache_dir: str | None = None,
        augment: dict[str, Any] | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_types(MiniImagenet.__init__, locals())
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
        self.class_batch_size = checked_size(class_batch_size)
        self.root = Path(root).expanduser()
        self.download = download
        self.cache_dir = cache_dir

    def prepare_data(self) -> None:
        """Download if asked to and needed; read the images into their cache files."""
        if self.download and find_layout(self.root) is None:
            try:
                download_pickles(self.root)
            except OSError as error:
                raise FileNotFoundError(
                    f"{_missing(self.root)} The download failed: {error}"
                ) from error
        self.class_images()

    def load_tasks(self) -> dict[str, TaskSampler]:
        """One sampler per split."""
        images, seed = self.class_images(), self.batches.seed
        samplers = image_tasks(images, self.shots, seed)
        return with_class_batches(samplers, images, seed, self.class_batch_size)

    def class_images(self) -> dict[str, ClassImages]:
        """The images of each split.

        Raises:
            FileNotFoundError: saying where was looked for what, if there is no data.
            ValueError: if splits share classes or pictures, or an image is corrupt.
        """
        found = find_layout(self.root)
        if found is None:
            raise FileNotFoundError(_missing(self.root))
        folder, sources = found
        cache = cache_folder(folder, self.cache_dir)
        splits = {split: cached_images(source, cache) for split, source in sources.items()}
        check_disjoint_names({split: images.names for split, images in splits.items()})
        check_disjoint_images(splits, SHARED_PICTURES)
        return splits


def download_pickles(root: Path, base_url: str = ZENODO, record: str = ZENODO_RECORD) -> None:
    """Fetch the three pickles to `root`, those that are not there yet.

    Raises:
        OSError: if the connection fails; a later call goes on where it stopped.
        ValueError: if a file is not what the record says.
    """
    files = zenodo_files(record, base_url)
    for name in PICKLES:
        if name not in files:
            raise ValueError(f"record {record} at {base_url} has no file {name}.")
        if not (root / name).exists():
            fetch(files[name], root / name)


def _missing(root: Path) -> str:
    places = ", ".join(str(root / place) for place in PLACES)
    return (
        f"no mini-ImageNet under `root` = {root} ({root.absolute()}). Looked for class folders "
        "train/ val/ test/, for images/ with train.csv val.csv test.csv, and for "
        "mini-imagenet-cache-{train,val or validation,test}.pkl "
        f"in {places}. Set `download: true` to fetch the three pickles (2.7 GB) from "
        f"{ZENODO}/records/{ZENODO_RECORD}, or put the data there yourself."
    )
