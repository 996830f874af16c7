"""The loaders that training.py has ours beside: image files, read one by one for each episode."""

import os
import random
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler
from torchvision.transforms.functional import to_tensor

from datamodules import MiniImagenet, Omniglot
from datamodules.class_folders import ClassFiles, FolderImages
from datamodules.episodic import EpisodicDataModule
from datamodules.image_reading import ImageSpec
from datamodules.mini_layouts import find_layout
from datamodules.omniglot import ROTATIONS, SPEC, _find, _list_characters, split_characters
from datamodules.settings import Sizes
from lightning_maml import Episode


def as_tensor(spec: ImageSpec, image: Image.Image) -> Tensor:
    """An image as floats in [0, 1], ``[C, H, W]``, as torchvision's transforms would make it."""
    image = image.convert("L" if spec.channels == 1 else "RGB")
    image = image.resize((spec.size, spec.size), Image.Resampling.LANCZOS)
    pixels: Tensor = to_tensor(image)
    return 1 - pixels if spec.invert else pixels


class ImageFiles(Dataset[Tensor]):
    """The images of some classes, each in each rotation; an item is one image.

    Attributes:
        classes: the numbers of each class's items; with 4 rotations a folder is four classes.
    """

    def __init__(self, files: ClassFiles, spec: ImageSpec, rotations: int = 1) -> None:
        self.spec, self.rotations = spec, rotations
        self.paths = [path for of_class in files.values() for path in of_class]
        self.classes: list[range] = []
        first = 0
        for of_class in files.values():
            end = first + len(of_class) * rotations
            self.classes += [range(first + turn, end, rotations) for turn in range(rotations)]
            first = end

    def __len__(self) -> int:
        return len(self.paths) * self.rotations

    def __getitem__(self, number: int) -> Tensor:
        file, turn = divmod(number, self.rotations)
        with Image.open(self.paths[file]) as image:
            pixels = as_tensor(self.spec, image)
        return torch.rot90(pixels, turn, (-2, -1))


class EpisodeSampler(Sampler[list[int]]):
    """The items of `episodes` tasks: `n_way` classes, `k_shot` and `query_shot` images of each."""

    def __init__(self, classes: Sequence[range], shots: Sizes, episodes: int, seed: int) -> None:
        self.classes, self.shots, self.episodes = classes, shots, episodes
        self.draws = random.Random(seed)

    def __len__(self) -> int:
        return self.episodes

    def __iter__(self) -> Iterator[list[int]]:
        shots = self.shots
        for _ in range(self.episodes):
            chosen = [
                self.draws.sample(numbers, shots.k_shot + shots.query_shot)
                for numbers in self.draws.sample(self.classes, shots.n_way)
            ]
            support = [number for of_class in chosen for number in of_class[: shots.k_shot]]
            query = [number for of_class in chosen for number in of_class[shots.k_shot :]]
            yield support + query


def as_episode(shots: Sizes, images: Sequence[Tensor]) -> Episode:
    """The images that `EpisodeSampler` chose for a task, as a batch of one task."""
    support = shots.n_way * shots.k_shot
    x = torch.stack(list(images))[None]
    support_y, query_y = (
        torch.arange(shots.n_way).repeat_interleave(shot)[None]
        for shot in (shots.k_shot, shots.query_shot)
    )
    return Episode(x[:, :support], support_y, x[:, support:], query_y)


def per_image_loader(
    files: ImageFiles, shots: Sizes, episodes: int, seed: int, num_workers: int
) -> DataLoader[Tensor]:
    """`episodes` training tasks, the usual way; a batch is one task."""
    sampler = EpisodeSampler(files.classes, shots, episodes, seed)
    return DataLoader(
        files,
        batch_sampler=sampler,
        collate_fn=partial(as_episode, shots),
        num_workers=num_workers,
    )


def image_folder_loader(
    files: ImageFiles, shots: Sizes, episodes: int, seed: int, num_workers: int
) -> DataLoader[Tensor]:
    """As many random images as `episodes` tasks have, through torchvision's `ImageFolder`."""
    images = shots.n_way * (shots.k_shot + shots.query_shot)
    folder = torchvision.datasets.ImageFolder(
        os.path.commonpath(files.paths), partial(as_tensor, files.spec), allow_empty=True
    )
    sampler = RandomSampler(
        folder,
        replacement=True,
        num_samples=images * episodes,
        generator=torch.Generator().manual_seed(seed),
    )
    return DataLoader(folder, batch_size=images, sampler=sampler, num_workers=num_workers)


def image_files(data: EpisodicDataModule) -> ImageFiles | None:
    """The training images of a datamodule that makes episodes of them, if they are in files."""
    if isinstance(data, Omniglot):
        folder = _find(data.root)
        assert folder is not None
        characters = split_characters(_list_characters(folder), data.characters)
        return ImageFiles(characters["train"], SPEC, ROTATIONS)
    if not isinstance(data, MiniImagenet) or data.class_batch_size is not None:
        return None
    found = find_layout(data.root)
    source = found[1]["train"] if found else None
    return ImageFiles(dict(source.files), source.spec) if isinstance(source, FolderImages) else None
