"""mini-ImageNet: three layouts made of small images, what is refused, and the real data."""

import csv
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import MiniImagenet
from lightning_maml.episode import Episode

WriteClasses = Callable[..., None]
CLASSES = {"train": ["n01", "n02", "n03"], "val": ["n04", "n05"], "test": ["n06", "n07"]}
IMAGES = 4
SETTINGS: dict[str, Any] = {"n_way": 2, "k_shot": 1, "query_shot": 2}


def as_folders(root: Path, write: WriteClasses) -> None:
    for split, names in CLASSES.items():
        write(root / split, names, IMAGES, 84)


def as_tables(root: Path, write: WriteClasses) -> None:
    as_folders(root / "classes", write)
    (root / "images").mkdir()
    for split in CLASSES:
        with (root / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["filename", "label"])
            for path in sorted((root / "classes" / split).glob("*/*")):
                table.writerow([path.name, path.parent.name])
                path.rename(root / "images" / path.name)
    shutil.rmtree(root / "classes")


def as_pickles(root: Path, write: WriteClasses, **names: str) -> None:
    as_folders(root / "classes", write)
    for split in CLASSES:
        paths = sorted((root / "classes" / split).glob("*/*"))
        classes: dict[Any, list[int]] = {}
        # Images and classes in another order than by name: `class_dict` says which is whose.
        images = [np.asarray(Image.open(path)) for path in reversed(paths)]
        for number, path in reversed(list(enumerate(reversed(paths)))):
            classes.setdefault(path.parent.name, []).append(number)
        content = {"image_data": np.stack(images), "class_dict": classes}
        path = root / f"mini-imagenet-cache-{names.get(split, split)}.pkl"
        path.write_bytes(pickle.dumps(content, protocol=2))
    shutil.rmtree(root / "classes")


def episodes(root: Path) -> list[Episode]:
    data = MiniImagenet(root=str(root), **SETTINGS)
    data.prepare_data()
    return [next(iter(data.train_dataloader())), *data.test_dataloader()]


@pytest.mark.parametrize(
    ("make", "options"),
    [(as_tables, {}), (as_pickles, {}), (as_pickles, {"val": "validation"})],
    ids=["csv", "pkl", "pkl-validation"],
)
@pytest.mark.parametrize("place", [".", "mini-imagenet"])
def test_all_layouts_give_the_same_tasks(
    tmp_path: Path,
    write_classes: WriteClasses,
    make: Callable[..., None],
    options: dict[str, str],
    place: str,
) -> None:
    as_folders(tmp_path / "folders", write_classes)
    make(tmp_path / "other" / place, write_classes, **options)
    pairs = zip(episodes(tmp_path / "folders"), episodes(tmp_path / "other"), strict=True)
    for one, other in pairs:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert one.support_x.shape[1:] == (2, 3, 84, 84)
        assert one.support_x.dtype == torch.uint8


def test_images_of_another_size_are_resized(tmp_path: Path, write_classes: WriteClasses) -> None:
    for split, names in CLASSES.items():
        write_classes(tmp_path / split, names, IMAGES, 20)
    assert episodes(tmp_path)[0].query_x.shape == (2, 4, 3, 84, 84)


def test_a_pickle_is_read_once(
    tmp_path: Path, write_classes: WriteClasses, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_pickles(tmp_path, write_classes)
    before = episodes(tmp_path)
    monkeypatch.setattr("datamodules.mini_layouts.load_arrays", None)
    for one, other in zip(before, episodes(tmp_path), strict=True):
        assert torch.equal(one.query_x, other.query_x)


class Runs:
    """Pickles as a call that makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def test_a_malicious_pickle_executes_nothing(tmp_path: Path, write_classes: WriteClasses) -> None:
    as_pickles(tmp_path, write_classes)
    bad = tmp_path / "mini-imagenet-cache-val.pkl"
    bad.write_bytes(pickle.dumps({"image_data": Runs(tmp_path / "trace")}))
    with pytest.raises(ValueError, match=r"mini-imagenet-cache-val\.pkl .*global \w+\.mkdir"):
        MiniImagenet(root=str(tmp_path)).prepare_data()
    assert not (tmp_path / "trace").exists()


IMAGE_DATA = np.zeros((4, 84, 84, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "must hold `image_data` and `class_dict`"),
        ({"image_data": IMAGE_DATA}, "must hold `image_data` and `class_dict`"),
        ({"image_data": IMAGE_DATA / 255, "class_dict": {"a": [0]}}, "uint8, got .* float64"),
        ({"image_data": IMAGE_DATA[0], "class_dict": {"a": [0]}}, r"got \[84, 84, 3\]"),
        ({"image_data": IMAGE_DATA, "class_dict": {"a": [0, 4]}}, "some of the 4 images"),
        ({"image_data": IMAGE_DATA, "class_dict": {"a": [0, -1]}}, "some of the 4 images"),
        ({"image_data": IMAGE_DATA, "class_dict": {"a": [0], "b": [0]}}, "none to two classes"),
        ({"image_data": IMAGE_DATA, "class_dict": {"a": [0], "b": []}}, "each class some"),
        ({"image_data": IMAGE_DATA, "class_dict": {}}, "each class some"),
    ],
)
def test_a_pickle_of_something_else_is_refused(
    tmp_path: Path, write_classes: WriteClasses, content: Any, message: str
) -> None:
    as_pickles(tmp_path, write_classes)
    (tmp_path / "mini-imagenet-cache-test.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=rf"cache-test\.pkl .*{message}"):
        MiniImagenet(root=str(tmp_path), **SETTINGS).prepare_data()


def test_a_class_in_two_splits_is_refused(tmp_path: Path, write_classes: WriteClasses) -> None:
    """A25: the error lists the names; also for pickles, where they are known only when read."""
    write_classes(tmp_path / "folders" / "test", ["n02"], IMAGES, 84)
    as_folders(tmp_path / "folders", write_classes)
    as_pickles(tmp_path / "pickles", write_classes)
    pickled = tmp_path / "pickles" / "mini-imagenet-cache-test.pkl"
    pickled.write_bytes(pickled.read_bytes().replace(b"n07", b"n02"))
    for root in ("folders", "pickles"):
        with pytest.raises(ValueError, match=r"splits train and test .* both have n02\."):
            MiniImagenet(root=str(tmp_path / root), **SETTINGS).prepare_data()


def test_a_picture_in_two_splits_is_refused(tmp_path: Path, write_classes: WriteClasses) -> None:
    as_folders(tmp_path, write_classes)
    shutil.copy(tmp_path / "train/n02/n02_01.png", tmp_path / "test/n06/n06_09.png")
    message = r"train and test must not share pictures, got 1 .*image 1 of 'n02' .*'n06' in test"
    with pytest.raises(ValueError, match=message):
        MiniImagenet(root=str(tmp_path), **SETTINGS).prepare_data()


def test_a_corrupt_picture_is_named(tmp_path: Path, write_classes: WriteClasses) -> None:
    as_folders(tmp_path, write_classes)
    (tmp_path / "val/n05/n05_02.png").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(ValueError, match=r"cannot read the image .*val/n05/n05_02\.png"):
        MiniImagenet(root=str(tmp_path), **SETTINGS).prepare_data()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("filename,label\nmissing.jpg,n06\n", r"test\.csv names missing\.jpg, which is not in"),
        ("file,class\nn06_00.png,n06\n", r"test\.csv must have the columns filename and label"),
        ("filename,label\n", r"test\.csv names no images"),
    ],
)
def test_a_wrong_table_is_refused(
    tmp_path: Path, write_classes: WriteClasses, table: str, message: str
) -> None:
    as_tables(tmp_path, write_classes)
    (tmp_path / "test.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        MiniImagenet(root=str(tmp_path), **SETTINGS).prepare_data()


def test_too_few_images_are_refused_at_setup(tmp_path: Path, write_classes: WriteClasses) -> None:
    """A22: a class of 4 images, 1 + 15 = 16 needed."""
    as_folders(tmp_path, write_classes)
    data = MiniImagenet(root=str(tmp_path), n_way=2, k_shot=1, query_shot=15)
    with pytest.raises(ValueError, match=r"at most 4 .*'n01' .* got 1 \+ 15 = 16"):
        data.setup()


def test_without_data_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(root: Path) -> None:
        raise OSError("no route")

    monkeypatch.setattr("datamodules.mini_imagenet.download_pickles", fails)
    for download, ending in ((False, "yourself"), (True, "The download failed: no route")):
        with pytest.raises(FileNotFoundError, match=ending) as error:
            MiniImagenet(root=str(tmp_path), download=download).prepare_data()
        for part in ("train/ val/ test/", "images/ with", ".pkl", str(tmp_path), "download: true"):
            assert part in str(error.value)


def test_the_shipped_splits_are_disjoint(mini_zips: list[Path]) -> None:
    """A25: 64 / 16 / 20 classes of 600 images, intersections 0."""
    classes: dict[str, dict[str, int]] = {"train": {}, "val": {}, "test": {}}
    for path in mini_zips:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                split, of_class, file = member.split("/")
                assert file.endswith(".jpg")
                classes[split][of_class] = classes[split].get(of_class, 0) + 1
    assert {split: len(names) for split, names in classes.items()} == {
        "train": 64,
        "val": 16,
        "test": 20,
    }
    assert {count for names in classes.values() for count in names.values()} == {600}
    assert len(set().union(*classes.values())) == 100


def test_the_real_data_loads_with_the_pictures_it_holds_twice(mini_root: Path) -> None:
    data = MiniImagenet(root=str(mini_root), query_shot=15)
    data.prepare_data()
    batch = next(iter(data.train_dataloader()))
    assert [list(t.shape) for t in batch] == [
        [2, 5, 3, 84, 84],
        [2, 5],
        [2, 75, 3, 84, 84],
        [2, 75],
    ]
    images = data.class_images()
    assert [len(of_split.names) for of_split in images.values()] == [64, 16, 20]
    shared = np.intersect1d(images["train"].digests, images["val"].digests)
    assert len(shared) == 6
    batch = data.on_after_batch_transfer(batch, 0)
    assert 0.0 <= batch.query_x.min() < batch.query_x.max() <= 1.0
    assert 0.3 < batch.query_x.mean() < 0.6


@pytest.mark.slow
def test_all_of_the_real_data(mini_zips: list[Path], tmp_path: Path) -> None:
    """60,000 images through the cache, and 600 test tasks that differ."""
    for path in mini_zips:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path)
    data = MiniImagenet(root=str(tmp_path), k_shot=5, test_tasks=600)
    data.prepare_data()
    assert all((of_split.counts == 600).all() for of_split in data.class_images().values())
    supports = [x for episode in data.test_dataloader() for x in episode.support_x]
    assert len({x.numpy().tobytes() for x in supports}) == 600
