"""Images to classify by a few labelled ones, from two folders."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.class_folders import IMAGE_ENDINGS, FolderImages, list_classes, none_at
from datamodules.episodic import dtype_of_model, image_as_float
from datamodules.trained_images import spec_of_training
from lightning_maml.argument_types import check_types
from lightning_maml.episode import Question


@final
class FewShotFolder(LightningDataModule):
    """For ``predict`` only: classes by example, and images to find the class of.

    Images may have any size, mode and usual format. They become what those of the training were,
    as the checkpoint has it; what it does not say, `image_size`, `channels` and `invert` must.

    Args:
        support: a folder with one folder of images per class
        query: a folder of images, at any depth, or one image
        statistics: of batch norm: "support", so that each image has its own answer, or
            "transductive", so that the images of `query` are normalised together
        image_size: height and width that images are resized to
        channels: 3 for RGB, 1 for grey
        invert: dark ink on white paper becomes bright on black
        trained_on: ``class_path`` and ``init_args`` of the training data; the command line takes
            them from the checkpoint

    Raises:
        ValueError: naming the setting that differs from training, or that is missing.
    """

    def __init__(
        self,
        support: str,
        query: str,
        statistics: Literal["support", "transductive"] = "support",
        image_size: int | None = None,
        channels: int | None = None,
        invert: bool | None = None,
        trained_on: dict[str, Any] | None = None,
    ) -> None:
        check_types(FewShotFolder.__init__, locals())
        super().__init__()
        self.support, self.query = Path(support).expanduser(), Path(query).expanduser()
        self.statistics = statistics
        self.spec = spec_of_training(trained_on or {}, image_size, channels, invert)

    @cached_property
    def _read(self) -> Question:
        if not self.support.is_dir():
            raise FileNotFoundError(
                "`support` must be a folder with a folder of images per class, got "
                f"{none_at(self.support)}."
            )
        classes, files = list_classes(self.support), list_images(self.query)
        if self.statistics == "transductive" and len(files) == 1:
            raise ValueError(
                '`statistics` must be "support" for a single image, got "transductive": normalised '
                "by itself it would look like any other."
            )
        return Question(
            support_x=self._pixels([path for paths in classes.values() for path in paths]),
            labels=[name for name, paths in classes.items() for _ in paths],
            query_x=self._pixels(list(files.values())),
            files=list(files),
            statistics=self.statistics,
        )

    def question(self, dtype: torch.dtype = torch.float32) -> Question:
        """Both folders, read once: images in [0, 1], ``[S, C, H, W]`` and ``[Q, C, H, W]``.

        Classes and files are sorted by name.

        Raises:
            FileNotFoundError: if a folder is none.
            ValueError: naming the folder that holds no image, or an image that cannot be read.
        """
        return _as_float(self._read, dtype)

    def predict_dataloader(self) -> DataLoader[Question]:
        """One batch: the question, its images as uint8."""
        return DataLoader([self._read], batch_size=None, collate_fn=_as_is)  # type: ignore

    def on_after_batch_transfer(self, batch: Question, dataloader_idx: int) -> Question:
        """Images travel as uint8 and become floats in [0, 1] on the device."""
        return _as_float(batch, dtype_of_model(self.trainer))

    def train_dataloader(self) -> Any:
        """There is none; so for validation and test.

        Raises:
            ValueError: always.
        """
        raise ValueError("`data` must hold tasks, got FewShotFolder, which is for `predict` only.")

    val_dataloader = test_dataloader = train_dataloader

    def _pixels(self, paths: list[Path]) -> Tensor:
        pixels = np.empty((len(paths), *self.spec.shape), np.uint8)
        _, read_into = FolderImages({"": paths}, self.spec, "images").open()
        read_into(pixels)
        return torch.from_numpy(pixels)


def list_images(place: Path) -> dict[str, Path]:
    """The image files in a folder and in those below, sorted by their paths in it; or the one file.

    Hidden files and folders and other files are ignored.

    Raises:
        FileNotFoundError: if `place` does not exist.
        ValueError: if there are no images.
    """
    if place.is_file():
        return {place.name: place}
    if not place.is_dir():
        raise FileNotFoundError(
            f"`query` must be a folder of images or an image, got {none_at(place)}."
        )
    found = {path.relative_to(place): path for path in place.rglob("*") if path.is_file()}
    images = {
        inside.as_posix(): path
        for inside, path in found.items()
        if path.suffix.lower() in IMAGE_ENDINGS
        and not any(part.startswith(".") for part in inside.parts)
    }
    if not images:
        raise ValueError(f"`query` must hold images, got {place}, which holds none.")
    return dict(sorted(images.items()))


def _as_float(question: Question, dtype: torch.dtype) -> Question:
    return question._replace(
        support_x=image_as_float(question.support_x, dtype),
        query_x=image_as_float(question.query_x, dtype),
    )


def _as_is(question: Question) -> Question:
    return question
