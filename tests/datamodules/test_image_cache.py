"""Class folders and the cache file made from them."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.class_folders import FolderImages, list_classes
from datamodules.image_cache import CACHE_FOLDER, ClassImages, cache_folder, cached_images
from datamodules.image_reading import ImageSpec
from datamodules.split_checks import check_disjoint_images, check_disjoint_names

WriteClasses = Callable[..., None]
SPEC = ImageSpec(size=8, channels=3)


@pytest.fixture
def folder(tmp_path: Path, write_classes: WriteClasses) -> Path:
    write_classes(tmp_path / "data", ["cat", "dog", "eel", "fox", "gnu"], 3)
    return tmp_path / "data"


def read(folder: Path) -> ClassImages:
    source = FolderImages(list_classes(folder), SPEC, "pets")
    return cached_images(source, folder.parent / "cache")


def cache_file(folder: Path) -> Path:
    (path,) = (folder.parent / "cache").iterdir()
    return path


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Counts how often images are read."""
    made: list[str] = []
    original = FolderImages._read_into

    def counted(self: FolderImages, images: np.ndarray) -> None:
        made.append(self.title)
        original(self, images)

    monkeypatch.setattr(FolderImages, "_read_into", counted)
    return made


def test_images_come_class_by_class(folder: Path) -> None:
    images = read(folder)
    assert images.names == ("cat", "dog", "eel", "fox", "gnu")
    assert images.counts.tolist() == [3] * 5
    assert images.starts.tolist() == [0, 3, 6, 9, 12]
    assert images.images.shape == (15, 3, 8, 8)
    assert images.images.dtype == torch.uint8
    with Image.open(folder / "dog" / "dog_02.png") as image:
        expected = np.asarray(image.resize((8, 8), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(images.images[5].permute(1, 2, 0), expected)
    assert [images.class_of(i) for i in (0, 2, 3, 14)] == ["cat", "cat", "dog", "gnu"]


def test_the_second_time_comes_from_the_file(folder: Path, builds: list[str]) -> None:
    first, second = read(folder), read(folder)
    assert builds == ["pets"]
    assert torch.equal(first.images, second.images)
    assert first.names == second.names
    np.testing.assert_array_equal(first.digests, second.digests)


def test_changed_data_is_read_anew(folder: Path, builds: list[str]) -> None:
    before = read(folder)
    Image.new("RGB", (8, 8), "red").save(folder / "cat" / "cat_00.png")
    after = read(folder)
    assert len(builds) == 2
    assert not torch.equal(before.images[0], after.images[0])
    (folder / "cat" / "cat_00.png").unlink()
    assert read(folder).counts.tolist() == [2, 3, 3, 3, 3]
    other_size = FolderImages(list_classes(folder), ImageSpec(9, 3), "pets")
    assert cached_images(other_size, folder.parent / "cache").images.shape == (14, 3, 9, 9)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: b"something else entirely" * 1000,
        lambda content: content.replace(b'"key": "', b'"key": "f', 1),
        lambda content: content[:8] + b"\xff" * 8 + content[16:],
        lambda content: content[:16] + b"[]" + content[18:],
    ],
)
def test_a_damaged_file_is_made_anew(
    folder: Path, builds: list[str], damage: Callable[[bytes], bytes]
) -> None:
    expected = read(folder).images.clone()
    path = cache_file(folder)
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(read(folder).images, expected)
    assert len(builds) == 2


def test_another_data_sets_file_is_not_taken(folder: Path, write_classes: WriteClasses) -> None:
    read(folder)
    mine = cache_file(folder)
    foreign = mine.read_bytes()
    Image.new("RGB", (8, 8), "red").save(folder / "cat" / "cat_00.png")
    read(folder)
    (path,) = set(mine.parent.iterdir()) - {mine}
    path.write_bytes(foreign)
    assert (read(folder).images[0, 0] == 255).all()


def test_a_corrupt_image_is_named_and_leaves_nothing_behind(folder: Path) -> None:
    (folder / "eel" / "eel_01.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(ValueError, match=r"cannot read the image .*eel/eel_01\.png"):
        read(folder)
    assert list((folder.parent / "cache").iterdir()) == []


def test_writing_to_the_tensor_does_not_reach_the_file(folder: Path) -> None:
    images = read(folder).images
    before = images.clone()
    images.zero_()
    assert torch.equal(read(folder).images, before)


def test_a_pickled_copy_maps_the_file(folder: Path) -> None:
    """What a worker process gets where processes are not forked."""
    images = read(folder)
    content = pickle.dumps(images)
    assert len(content) < 1000
    assert torch.equal(pickle.loads(content).images, images.images)


def test_hidden_folders_and_stray_files_are_ignored(folder: Path, builds: list[str]) -> None:
    """A23: 5 classes stay 5."""
    (folder / ".checkpoints").mkdir()
    (folder / ".checkpoints" / "x.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("stray")
    (folder / "cat" / ".hidden.png").write_bytes(b"x")
    (folder / "cat" / "Thumbs.db").write_bytes(b"x")
    assert read(folder).counts.tolist() == [3] * 5


def test_an_empty_class_is_named(folder: Path) -> None:
    """A23."""
    (folder / "hen").mkdir()
    with pytest.raises(ValueError, match=r"class folder .*data/hen holds no images"):
        read(folder)


def test_no_classes_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no class folders in"):
        list_classes(tmp_path)


def test_place_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder(tmp_path, "/elsewhere") == Path("/elsewhere")
    assert cache_folder(tmp_path, None) == tmp_path / CACHE_FOLDER
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/users/own")
    assert cache_folder(tmp_path, None) == Path("/users/own/lightning_maml")


def test_shared_class_names_are_listed() -> None:
    """A25."""
    splits = {"train": ["a", "b", "c"], "val": ["d"], "test": ["c", "e", "b"]}
    with pytest.raises(ValueError, match=r"splits train and test .* both have b, c\."):
        check_disjoint_names(splits)


def test_shared_pictures_are_refused_and_some_allowed(
    images_with_ids: Callable[[list[int]], ClassImages],
) -> None:
    train, val = images_with_ids([3, 3]), images_with_ids([2, 2])
    val.digests[:] += 100
    check_disjoint_images({"train": train, "val": val})
    val.digests[3] = train.digests[4]
    message = r"got 1 .*image 1 of 'class1' in train is also in 'class1' in val"
    with pytest.raises(ValueError, match=message):
        check_disjoint_images({"train": train, "val": val})
    check_disjoint_images({"train": train, "val": val}, {("class1", "class1"): 1})
    val.digests[2] = train.digests[5]
    with pytest.raises(ValueError, match="got 2"):
        check_disjoint_images({"train": train, "val": val}, {("class1", "class1"): 1})
