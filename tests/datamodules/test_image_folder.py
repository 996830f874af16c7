"""A folder of one's own: any mode, any order of listing, splits by hand, and what is refused."""

import logging
import random
import shutil
from collections.abc import Callable
from os import scandir
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import train
from datamodules import ImageFolder
from datamodules.class_splits import sizes_of
from lightning_maml.episode import Episode

WriteClasses = Callable[..., None]
CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = [f"class{number:02}" for number in range(12)]

# Mode and file ending, and how far a colour may be from what was saved (of 255).
KINDS = [
    ("RGB", "jpg", 3),
    ("RGB", "JPEG", 3),
    ("RGB", "png", 0),
    ("RGB", "bmp", 0),
    ("RGB", "webp", 6),
    ("RGBA", "png", 0),
    ("RGBA", "webp", 6),
    ("CMYK", "jpg", 6),
    ("CMYK", "tiff", 3),
    ("P", "gif", 0),
    ("P", "png", 0),
    ("L", "jpg", 2),
    ("L", "tif", 1),
    ("LA", "png", 1),
    ("I;16", "png", 1),
    ("I;16", "tiff", 1),
]
GREY_MODES = ("L", "LA", "I;16")


def grey(number: int) -> int:
    """Of a class; it is told by this alone."""
    return 30 + 17 * number


def colour(number: int) -> list[int]:
    """Of a class: purple or green, with the grey value above."""
    tint = (-1) ** number * np.array([26, -26 * (0.299 + 0.114) / 0.587, 26])
    return np.round(grey(number) + tint).astype(int).tolist()


def flat_image(number: int, mode: str, size: tuple[int, int]) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.full(size[::-1], 257 * grey(number), np.uint16))
    image = Image.new("RGB", size, tuple(colour(number)))
    return image.quantize(4) if mode == "P" else image.convert(mode)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes of an image of each kind, all of other sizes, and what is no image."""
    folder, rng = tmp_path_factory.mktemp("data") / "mixed", random.Random(0)
    for number, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for i, (mode, ending, _) in enumerate(KINDS):
            image = flat_image(number, mode, (rng.randint(5, 40), rng.randint(5, 40)))
            image.save(folder / name / f"{i:02}.{ending}")
        (folder / name / "Thumbs.db").write_bytes(b"no image")
        (folder / name / "._00.jpg").write_bytes(b"no image")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "labels.csv").write_text("no image")
    return folder


@pytest.fixture
def folder(tmp_path: Path, write_classes: WriteClasses) -> Path:
    """Twelve classes of four images of noise."""
    write_classes(tmp_path / "noise", NAMES, 4)
    return tmp_path / "noise"


def make(root: Path, **settings: Any) -> ImageFolder:
    return ImageFolder(str(root), **({"n_way": 2, "image_size": 8} | settings))


def names_of(data: ImageFolder) -> dict[str, list[str]]:
    return {split: list(files) for split, files in data.files.items()}


# -- images and labels -------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 1])
def test_every_kind_of_image_has_the_pixels_that_were_saved(mixed: Path, channels: int) -> None:
    """A24; A23: what is hidden or no image is neither a class nor an image."""
    images = make(mixed, channels=channels, fractions=(1, 0, 0)).class_images()["train"]
    assert images.names == tuple(NAMES)
    assert images.counts.tolist() == [len(KINDS)] * 12
    assert images.images.shape == (12 * len(KINDS), channels, 8, 8)
    of_class = images.images.view(12, len(KINDS), channels, 64).long()
    for number in range(12):
        for (mode, _, apart), pixels in zip(KINDS, of_class[number], strict=True):
            as_grey = channels == 1 or mode in GREY_MODES
            expected = [grey(number)] * channels if as_grey else colour(number)
            assert (pixels - torch.tensor(expected)[:, None]).abs().max() <= apart + as_grey


def test_black_and_white_stays_so(tmp_path: Path) -> None:
    for name, value in (("black", 0), ("white", 1)):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("1", (9, 9 + i), value).save(tmp_path / name / f"{i}.png")
    images = make(tmp_path, fractions=(1, 0, 0)).class_images()["train"].images
    assert [image.unique().tolist() for image in images] == [[0], [0], [255], [255]]


def test_labels_mean_classes_of_the_split(mixed: Path) -> None:
    """The grey value of an image tells its class; in a task each label is one of another class."""
    data = make(mixed, n_way=3, k_shot=2, query_shot=3, channels=1, fractions=(0.5, 0.25, 0.25))
    data.setup()
    for split, names in names_of(data).items():
        episode = data.tasks[split](0, 50)
        assert isinstance(episode, Episode)
        assert episode.support_x.shape == (50, 6, 1, 8, 8)
        assert episode.query_x.shape == (50, 9, 1, 8, 8)
        of_images = [
            ((x[..., 0, 0, 0].double() - 30) / 17).round().long().tolist()
            for x in (episode.support_x, episode.query_x)
        ]
        labels = [episode.support_y.tolist(), episode.query_y.tolist()]
        for task in range(50):
            meanings = {
                (label, NAMES[number])
                for y, numbers in zip(labels, of_images, strict=True)
                for label, number in zip(y[task], numbers[task], strict=True)
            }
            assert len(meanings) == len({name for _, name in meanings}) == 3
            assert {name for _, name in meanings} <= set(names)


def test_episodes_of_a_folder_are_what_they_should_be(
    tmp_path: Path, write_classes: WriteClasses
) -> None:
    """A19, A20, A21, A27, A28: labels, no image in both sets, no class twice, every image used."""
    write_classes(tmp_path, NAMES[:6], 5)
    sizes = {"n_way": 3, "k_shot": 2, "query_shot": 2, "image_size": 10}
    data = make(tmp_path, fractions=(1, 0, 0), train_batches_per_epoch=50, **sizes)
    images = data.class_images()["train"]
    known = {image.numpy().tobytes(): i for i, image in enumerate(images.images)}
    assert len(known) == 30
    seen: list[set[int]] = [set(), set()]
    episodes = []
    for batch in data.train_dataloader():
        for task in range(4):
            x, y = (torch.cat([batch[i][task], batch[i + 2][task]]) for i in (0, 1))
            numbers = [known[image.numpy().tobytes()] for image in x]
            assert len(set(numbers)) == 12
            pairs = {(label, i // 5) for label, i in zip(y.tolist(), numbers, strict=True)}
            assert len(pairs) == len({of_class for _, of_class in pairs}) == 3
            for part, labels, chosen in ((0, y[:6], numbers[:6]), (1, y[6:], numbers[6:])):
                assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2]
                seen[part] |= set(chosen)
            episodes.append(tuple(numbers))
    assert seen == [set(range(30))] * 2
    assert len(set(episodes)) == 200


# Python 3.12 and newer warn of any fork from a process with threads, as loader workers are.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_workers_do_not_change_the_episodes_of_a_folder(folder: Path) -> None:
    """A29: the first 40 batches with 0, 1 and 2 workers."""
    settings: dict[str, Any] = {"fractions": (1, 0, 0), "train_batches_per_epoch": 40}
    first, *others = (
        list(make(folder, num_workers=n, **settings).train_dataloader()) for n in (0, 1, 2)
    )
    for other in others:
        assert all(all(map(torch.equal, *pair)) for pair in zip(first, other, strict=True))


def test_an_empty_class_is_named_and_a_hidden_one_is_none(folder: Path) -> None:
    """A23: a notebook's hidden folder with an image in it, and a class without any."""
    shutil.copytree(folder / "class00", folder / ".ipynb_checkpoints")
    assert sum(map(len, names_of(make(folder)).values())) == 12
    (folder / "class12").mkdir()
    with pytest.raises(ValueError, match=r"the class folder .*/class12 holds no images"):
        make(folder).setup()


def test_dark_on_white_can_become_bright_on_black(mixed: Path) -> None:
    plain, inverted = (
        make(mixed, fractions=(0, 0, 1), invert=invert).class_images()["test"].images
        for invert in (False, True)
    )
    assert torch.equal(plain, 255 - inverted)


def test_images_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(folder).prepare_data()
    monkeypatch.setattr("datamodules.class_folders.read_image", None)
    (batch,) = make(folder, test_tasks=4).test_dataloader()
    assert batch.query_x.shape == (4, 2, 3, 8, 8)
    assert (folder / ".lightning_maml").is_dir()


# -- splits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fractions", "sizes"),
    [
        (None, {"train": 8, "val": 2, "test": 2}),  # 12 times 0.64, 0.8, 1 is 7.68, 9.6, 12
        ((0.5, 0.25, 0.25), {"train": 6, "val": 3, "test": 3}),
        ((0.5, 0.2, 0.2), {"train": 6, "val": 2, "test": 3}),  # 6, 8.4, 10.8; one is not used
        ((1 / 3, 1 / 3, 1 / 3), {"train": 4, "val": 4, "test": 4}),
        ((0.6, 0.0, 0.4), {"train": 7, "test": 5}),
        ((0.0, 0.0, 1.0), {"test": 12}),
    ],
)
def test_fractions_by_hand(folder: Path, fractions: Any, sizes: dict[str, int]) -> None:
    names = names_of(make(folder, fractions=fractions))
    assert {split: len(of_split) for split, of_split in names.items()} == sizes
    together = [name for of_split in names.values() for name in of_split]
    assert len(set(together)) == len(together)
    assert set(together) <= set(NAMES)


@pytest.mark.parametrize("classes", [7, 100, 1623])
def test_fractions_that_sum_to_one_take_every_class(classes: int) -> None:
    for fractions in ((0.7, 0.1, 0.2), (0.7, 0.2, 0.1), (0.64, 0.16, 0.2), (0.1, 0.3, 0.6)):
        assert sum(sizes_of(fractions, classes)) == classes


def test_the_split_is_a_function_of_names_and_split_seed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = names_of(make(folder))
    assert first["train"] != NAMES[:8]
    assert names_of(make(folder, seed=5)) == first
    assert names_of(make(folder, split_seed=1)) != first
    shuffled = random.Random(1)

    def listing(place: Path) -> list[Any]:
        entries = list(scandir(place))
        shuffled.shuffle(entries)
        return entries

    monkeypatch.setattr("datamodules.class_folders.os", SimpleNamespace(scandir=listing))
    torch.manual_seed(3)
    random.seed(3)
    other = make(folder)
    assert names_of(other) == first
    assert all(paths == sorted(paths) for files in other.files.values() for paths in files.values())


def test_classes_by_name(folder: Path) -> None:
    lists = {"test": ["class03", "class01"], "train": ["class11", "class00", "class02"]}
    assert names_of(make(folder, classes=lists)) == {
        "train": ["class00", "class02", "class11"],
        "test": ["class01", "class03"],
    }


@pytest.mark.parametrize("val", ["val", "validation"])
def test_folders_of_splits(tmp_path: Path, write_classes: WriteClasses, val: str) -> None:
    for split, names in (("train", NAMES[:5]), (val, NAMES[5:8]), ("test", NAMES[8:])):
        write_classes(tmp_path / split, names, 3)
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    assert names_of(make(tmp_path)) == {
        "train": NAMES[:5],
        "val": NAMES[5:8],
        "test": NAMES[8:],
    }


def test_a_class_may_be_called_train(tmp_path: Path, write_classes: WriteClasses) -> None:
    vehicles = ["bus", "car", "ship", "train"]
    write_classes(tmp_path, vehicles, 2)
    assert names_of(make(tmp_path, fractions=(1, 0, 0))) == {"train": vehicles}


def test_the_summary_is_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture, write_classes: WriteClasses
) -> None:
    for path in sorted((folder / "class07").iterdir())[:2]:
        path.unlink()
    (folder / "class04" / "class04_00.png").unlink()
    data = make(folder, fractions=(1, 0, 0))
    with caplog.at_level(logging.INFO, logger="datamodules"):
        data.prepare_data()
        data.setup()
        data.train_dataloader()
    assert caplog.messages == [
        f"Images in {folder}:\n"
        "  train: 12 classes, 45 images, 2 to 4 per class (fewest: class07, class04, class00)"
    ]


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fractions": (0.5, 0.5)}, "`fractions` must be three numbers"),
        ({"fractions": (0.5, -0.1, 0.5)}, "`fractions` must be three numbers of at least 0"),
        ({"fractions": (0.5, float("nan"), 0.5)}, "`fractions` must be three numbers"),
        ({"fractions": (0.6, 0.3, 0.2)}, r"at most 1, got 0\.6 \+ 0\.3 \+ 0\.2 = 1\.1"),
        ({"fractions": (0, 0, 0)}, "`fractions` must sum to more than 0"),
        ({"fractions": (1, 0, 0), "classes": {"train": ["a"]}}, "where `classes` is"),
        ({"classes": {"training": ["a"]}}, "`classes` must list names for some of train, val"),
        ({"classes": {"train": []}}, "`classes` must list names"),
        (
            {"classes": {"train": ["a", "b", "c"], "test": ["c", "b"]}},
            "`classes`: the splits train and test must have different .* both have b, c",
        ),
        ({"split_seed": -1}, "`split_seed` must be an integer from 0"),
        ({"image_size": 0}, "`image_size` must be an integer of at least 1, got 0"),
        ({"channels": 2}, "`channels` must be 1"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(Path("/there/is/no/such/folder"), **settings)


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("nothing", "file"):
        with pytest.raises(FileNotFoundError, match=rf"`root` must be .*{tmp_path / name}"):
            make(tmp_path / name).prepare_data()


def test_no_classes(tmp_path: Path) -> None:
    Image.new("L", (5, 5)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=f"no class folders in {tmp_path}"):
        make(tmp_path).setup()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_way": 5}, r"`n_way` must be at most 2 \(classes in the val split\), got 5"),
        ({"fractions": (0.9, 0.01, 0.09)}, r"at most 0 \(classes in the val split\), got 2"),
        (
            {"query_shot": 4, "fractions": (0, 0, 1)},
            r"at most 3 \(images of the class 'class09' in the test split\), got 1 \+ 4 = 5\. "
            r"Too small, too: 'class00' \(4\), .* 'class04' \(4\) and 6 more",
        ),
        ({"classes": {"train": ["class00", "dog"]}}, "12 like 'class00', got 'dog'"),
    ],
)
def test_too_little_is_refused_before_anything_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], message: str
) -> None:
    """A22: the split and how many, or the classes that are too small."""
    (folder / "class09" / "class09_00.png").unlink()
    monkeypatch.setattr("datamodules.class_folders.read_image", None)
    with pytest.raises(ValueError, match=message):
        make(folder, **settings).prepare_data()


def test_a_split_that_is_asked_for_must_be_there(folder: Path) -> None:
    data = make(folder, fractions=(0.5, 0, 0.5))
    data.train_dataloader()
    with pytest.raises(ValueError, match="no tasks for the val split, only for train, test"):
        data.val_dataloader()


def test_an_unreadable_image_is_named(folder: Path) -> None:
    """A24: a file that is cut off."""
    path = folder / "class05" / "class05_02.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot read the image .*class05/class05_02\.png"):
        make(folder).prepare_data()


def test_a_class_or_picture_in_two_splits_is_refused(
    tmp_path: Path, write_classes: WriteClasses
) -> None:
    write_classes(tmp_path / "train", NAMES[:3], 3)
    write_classes(tmp_path / "test", NAMES[2:5], 3)
    with pytest.raises(ValueError, match=r"train and test must have .* both have class02"):
        make(tmp_path).setup()
    (tmp_path / "test" / "class02").rename(tmp_path / "test" / "class09")
    shutil.copy(tmp_path / "train/class00/class00_01.png", tmp_path / "test/class03/copy.png")
    with pytest.raises(ValueError, match=r"image 1 of 'class00' in train is also in 'class03'"):
        make(tmp_path).setup()


@pytest.mark.parametrize("setting", [{"fractions": (1, 0, 0)}, {"classes": {"test": ["a"]}}])
def test_folders_of_splits_are_not_split_again(
    tmp_path: Path, write_classes: WriteClasses, setting: dict[str, Any]
) -> None:
    write_classes(tmp_path / "train", NAMES, 3)
    message = f"`{next(iter(setting))}` must not be given where .* with train/"
    with pytest.raises(ValueError, match=message):
        make(tmp_path, **setting).setup()


# -- the command line --------------------------------------------------------------------------


def test_a_config_of_mini_imagenet_on_a_folder_of_ones_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the README has it, with less work."""
    monkeypatch.chdir(tmp_path)
    train.main(
        [
            "fit",
            f"--config={CONFIGS / 'mini_1shot.yaml'}",
            "--data=ImageFolder",
            f"--data.root={folder}",
            "--data.fractions=[0.5, 0, 0.5]",
            "--data.query_shot=1",
            "--data.meta_batch_size=1",
            "--data.train_batches_per_epoch=1",
            "--trainer.max_steps=1",
            "--trainer.limit_val_batches=0",
            "--trainer.logger=false",
            "--trainer.callbacks=null",
            "--trainer.enable_progress_bar=false",
            "--trainer.enable_model_summary=false",
        ]
    )
