"""Generated characters: images to meta-learn on where there are no files."""

from typing import Any, final

from datamodules.episode_loader import TaskSampler
from datamodules.episodic import EpisodicDataModule
from datamodules.glyph_drawing import SIZE, draw_characters
from datamodules.image_cache import ClassImages, images_in_memory
from datamodules.image_episodes import image_tasks
from datamodules.sampling import SPLITS, check_seed
from datamodules.settings import Batches, Count, Shots, check_at_least, check_split_sizes
from lightning_maml.argument_types import check_types


@final
class Glyphs(EpisodicDataModule):
    """Characters of random strokes, 28x28, ink = 1 on paper = 0, one channel.

    They look like Omniglot's and come in the same way, but nothing is downloaded, read or written:
    they are drawn at setup, 10,000 images in about a second (glyph_drawing.py). No character is in
    two splits.

    Args:
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
        characters: characters for training, validation and test, as many as one likes
        drawings: images of each character
        alphabet: another number gives other characters; a run's `seed` does not
        augment: crop, flip, color and same_for_class for training images (augmentation.py), e.g.
            {crop: 8, flip: true, color: 0.4}; None: images as they are
        seed: tasks are a function of (seed, split, task number) alone
        num_workers: loader processes

    Raises:
        ValueError: naming the setting that is out of range.
    """

    def __init__(
        self,
        n_way: Count = 5,
        k_shot: Count = 1,
        query_shot: Count = 1,
        eval_n_way: int | None = None,
        eval_k_shot: int | None = None,
        eval_query_shot: int | None = None,
        meta_batch_size: int = 16,
        eval_batch_size: int = 20,
        train_batches_per_epoch: int = 500,
        val_tasks: int = 200,
        test_tasks: int = 600,
        characters: tuple[int, int, int] = (1200, 100, 400),
        drawings: int = 20,
        alphabet: int = 0,
        augment: dict[str, Any] | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        check_types(Glyphs.__init__, locals())
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
        check_split_sizes("characters", characters)
        check_at_least("drawings", drawings, 2)
        self.characters = characters
        self.drawings = drawings
        self.alphabet = check_seed(alphabet, "alphabet")

    def load_tasks(self) -> dict[str, TaskSampler]:
        """One sampler per split."""
        return image_tasks(self.class_images(), self.shots, self.batches.seed)

    def class_images(self) -> dict[str, ClassImages]:
        """The characters of each split, drawn at each call; their names are `train/0` and so on."""
        splits = {}
        for split, characters in zip(SPLITS, self.characters, strict=True):
            images = draw_characters(self.alphabet, split, 0, characters, self.drawings)
            counts = {f"{split}/{c}": self.drawings for c in range(characters)}
            splits[split] = images_in_memory(images.reshape(-1, 1, SIZE, SIZE), counts)
        return splits
