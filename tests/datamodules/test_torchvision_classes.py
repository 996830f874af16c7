"""Data sets like torchvision's, whose pixels say who they are, and files in CIFAR's format."""

import hashlib
import inspect
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image

from datamodules import TorchvisionClasses
from datamodules.labelled_images import SAMPLE, labels_of

HERE = "tests.datamodules.test_torchvision_classes"
CONFIGS = Path(__file__).parents[2] / "configs"
SUPERCLASSES = {  # of CIFAR-100, as its page lists them
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
NAMES = sorted(name for several in SUPERCLASSES.values() for name in several.split())


class Fake:
    """Twelve classes of `images` 8x8 pictures in one colour, (class, number of the image, part)."""

    classes = tuple(f"kind {number}" for number in range(12))

    def __init__(self, root: str, part: int = 0, images: int = 5, download: bool = False) -> None:
        if download:
            (Path(root) / "here").touch()
        if not (Path(root) / "here").exists():
            raise RuntimeError("Dataset not found.\nMore.")
        self.part = part
        order = np.random.default_rng(part).permutation(12 * images)
        self.targets = (order % 12).tolist()
        self.numbers = order // 12

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8), (self.targets[i], self.numbers[i], self.part)), (
            self.targets[i]
        )


class Nameless(Fake):
    """Without the lists of names and labels, as `FakeData`."""

    classes = None  # type: ignore[assignment]

    def __init__(self, root: str, **more: Any) -> None:
        super().__init__(root, **more)
        self.hidden = self.__dict__.pop("targets")

    def __getattr__(self, name: str) -> Any:
        if name == "targets" and "hidden" in self.__dict__:
            return None
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        number = self.hidden[i]
        return Image.new("RGB", (8, 8), (number, int(self.numbers[i]), self.part)), number


class Tensors(Fake):
    """With a `transform`."""

    def __getitem__(self, i: int) -> Any:
        return torch.zeros(3, 8, 8), self.targets[i]


class TwoLabels(Fake):
    """Several labels an image."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.targets = [[label, 0] for label in self.targets]

    def __getitem__(self, i: int) -> Any:
        return Image.new("RGB", (8, 8)), self.targets[i]


def make(root: Path, kind: str = "Fake", **settings: Any) -> TorchvisionClasses:
    (root / "here").touch()
    path = kind if kind in dir(torchvision.datasets) else f"{HERE}.{kind}"
    small = {"n_way": 2, "image_size": 8, "fractions": (0.5, 0.25, 0.25)}
    return TorchvisionClasses(path, root=str(root), **(small | settings))


# -- images, labels, splits --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Fake", "Nameless"])
def test_images_of_all_parts_are_put_together_by_class(tmp_path: Path, kind: str) -> None:
    """Each class has all its images of both parts and no other's; A25: no class in two splits."""
    data = make(tmp_path, kind, parts=({"part": 0}, {"part": 1, "images": 3}))
    splits = data.class_images()
    assert [len(images.names) for images in splits.values()] == [6, 3, 3]
    names = [name for images in splits.values() for name in images.names]
    assert sorted(names) == sorted(f"kind {n}" if kind == "Fake" else str(n) for n in range(12))
    expected = {(i, part) for part, images in ((0, 5), (1, 3)) for i in range(images)}
    for images in splits.values():
        for name, start in zip(images.names, images.starts, strict=True):
            colours = images.images[start : start + 8, :, 0, 0].tolist()
            assert {colour[0] for colour in colours} == {int(name.split()[-1])}
            assert {(number, part) for _, number, part in colours} == expected


def test_each_label_is_one_class_and_each_image_comes_once(tmp_path: Path) -> None:
    """A18 to A21, A27, from the data set to the episode."""
    data = make(tmp_path, n_way=3, k_shot=2, query_shot=3, train_batches_per_epoch=50)
    support, query = set(), set()
    for episode in data.train_dataloader():
        for task in range(4):
            parts = []
            for x, y, shots in ((*episode[:2], 2), (*episode[2:], 3)):
                images = [tuple(colour) for colour in x[task, :, :2, 0, 0].tolist()]
                parts.append(set(images))
                assert len(parts[-1]) == 3 * shots
                assert len({(c, label) for (c, _), label in zip(images, y[task].tolist())}) == 3  # noqa: B905
            assert not parts[0] & parts[1]
            assert {c for c, _ in parts[0]} == {c for c, _ in parts[1]}
            support |= parts[0]
            query |= parts[1]
    train = {int(name.split()[1]) for name in data.class_images()["train"].names}
    assert support == query == {(c, number) for c in train for number in range(5)}


def test_images_are_read_once_for_any_split(tmp_path: Path, monkeypatch: Any) -> None:
    lists = {"train": ["kind 3", "kind 0"], "test": ["kind 11"]}
    make(tmp_path, classes=lists, fractions=None).prepare_data()
    reads, original = [], Fake.__getitem__

    def reading(self: Fake, i: int) -> Any:
        reads.append(i)
        return original(self, i)

    monkeypatch.setattr(f"{HERE}.Fake.__getitem__", reading)
    splits = make(tmp_path, classes=lists, fractions=None).class_images()
    assert {split: images.names for split, images in splits.items()} == {
        "train": ("kind 0", "kind 3"),
        "test": ("kind 11",),
    }
    assert len(set(reads)) == SAMPLE
    make(tmp_path, classes=lists, fractions=None, image_size=9).class_images()
    assert len(set(reads)) > SAMPLE  # of another size: all are read


def test_other_pictures_under_the_same_names_are_read_anew(
    tmp_path: Path, monkeypatch: Any
) -> None:
    def first() -> list[int]:
        split = make(tmp_path, cache_dir=str(tmp_path)).class_images()["train"]
        return split.images[0, :, 0, 0].tolist()

    before = first()
    monkeypatch.setattr(
        f"{HERE}.Fake.__getitem__",
        lambda self, i: (Image.new("RGB", (8, 8), (9, 9, 9)), self.targets[i]),
    )
    assert before != first() == [9, 9, 9]


def test_fake_data_of_torchvision(tmp_path: Path) -> None:
    """It takes no `root`, has neither names nor a list of labels."""
    arguments = {"size": 60, "image_size": [3, 12, 10], "num_classes": 6}
    data = make(tmp_path, "FakeData", parts=(arguments,), cache_dir=str(tmp_path))
    data.prepare_data()
    fake = torchvision.datasets.FakeData(60, (3, 12, 10), 6)
    labels = [int(fake[i][1]) for i in range(60)]
    for images in data.class_images().values():
        counts = [labels.count(int(name)) for name in images.names]
        assert images.counts.tolist() == counts
        assert images.images.shape == (sum(counts), 3, 8, 8)


def test_a_picture_in_two_splits_is_said(tmp_path: Path, caplog: Any) -> None:
    class_images = make(tmp_path, "Same").class_images
    with caplog.at_level(logging.WARNING, logger="datamodules"):
        class_images()
    (message,) = {record.getMessage().partition(":")[0] for record in caplog.records}
    assert message == "same"
    assert "must not share pictures" in caplog.text


class Same(Fake):
    """All pictures alike."""

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8)), self.targets[i]


# -- CIFAR -------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-100 in small: two training images and a test image of each class, as files of its."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    contents: dict[str, Any] = {"meta": {"fine_label_names": NAMES}}
    rng = np.random.default_rng(0)
    for name, per_class in (("train", 2), ("test", 1)):
        pixels = rng.integers(0, 256, (100 * per_class, 3, 32, 32), np.uint8)
        labels = np.tile(np.arange(100), per_class).tolist()
        contents[name] = {"data": pixels.reshape(-1, 3072), "fine_labels": labels}
    kind = torchvision.datasets.CIFAR100
    lists: dict[str, list[list[str]]] = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
        lists[name] = [[name, md5]]
    monkeypatch.setattr(kind, "train_list", lists["train"])
    monkeypatch.setattr(kind, "test_list", lists["test"])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": lists["meta"][0][1]})
    return tmp_path


def test_cifar_in_its_own_format(cifar: Path) -> None:
    """Training and test images of a class are together, pixel for pixel."""
    wanted = [NAMES[number] for number in (7, 99, 0)]
    data = make(
        cifar,
        "CIFAR100",
        parts=({"train": True}, {"train": False}),
        classes={"train": wanted},
        fractions=None,
        image_size=32,
    )
    images = data.class_images()["train"]
    assert images.names == tuple(sorted(wanted))
    files = {
        name: pickle.loads((cifar / "cifar-100-python" / name).read_bytes())["data"]
        for name in ("train", "test")
    }
    for place, number in enumerate((0, 7, 99)):
        expected = [files["train"][number], files["train"][100 + number], files["test"][number]]
        got = images.images[3 * place : 3 * place + 3].reshape(3, -1).numpy()
        assert (got == np.stack(expected)).all()


# -- the shipped splits ------------------------------------------------------------------------

# Oreshkin et al. (NeurIPS 2018): superclasses by their place in this list.
FC100 = {
    "train": (1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19),
    "val": (8, 11, 13, 16),
    "test": (0, 7, 12, 14),
}


def settings_of(config: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / f"{config}.yaml").read_text())["data"]["init_args"]


@pytest.mark.parametrize("k_shot", [1, 5])
def test_fc100_is_split_by_superclass(k_shot: int) -> None:
    """60, 20 and 20 classes."""
    names = list(SUPERCLASSES)
    expected = {
        split: sorted(c for i in numbers for c in SUPERCLASSES[names[i]].split())
        for split, numbers in FC100.items()
    }
    assert settings_of(f"fc100_5way_{k_shot}shot")["classes"] == expected


@pytest.mark.parametrize("k_shot", [1, 5])
def test_cifar_fs_has_every_class_once(k_shot: int) -> None:
    """A25 for the shipped split: 64, 16 and 20 classes (Bertinetto et al., ICLR 2019)."""
    classes = settings_of(f"cifar_fs_5way_{k_shot}shot")["classes"]
    assert {split: len(names) for split, names in classes.items()} == {
        "train": 64,
        "val": 16,
        "test": 20,
    }
    assert sorted(name for names in classes.values() for name in names) == NAMES


@pytest.mark.parametrize("config", ["cifar_fs_5way_1shot", "fc100_5way_5shot"])
def test_the_configs_of_cifar_find_their_classes(cifar: Path, config: str) -> None:
    """By the names in the files; three images each, as many as 1 + 2."""
    settings = settings_of(config) | {"root": str(cifar), "k_shot": 1, "query_shot": 2}
    settings |= {"val_tasks": 4}
    data = TorchvisionClasses(**settings)
    data.setup()
    found = {split: list(images.names) for split, images in data.class_images().items()}
    assert found == settings["classes"]
    (batch,) = data.val_dataloader()
    assert batch.query_x.shape == (4, 10, 3, 32, 32)


@pytest.mark.parametrize(
    "config", ["flowers_5way_1shot", "aircraft_5way_1shot", "dtd_5way_1shot", "eurosat_3way_1shot"]
)
def test_parts_are_arguments_of_torchvisions_class(config: str) -> None:
    """Their files are not at hand; all of their `split`s are taken, and there is a download."""
    settings = settings_of(config)
    kind = getattr(torchvision.datasets, settings["dataset"])
    for arguments in settings["parts"]:
        inspect.signature(kind).bind("root", **arguments, download=True)
    splits = sorted(arguments.get("split", "") for arguments in settings["parts"])
    known = {"FGVCAircraft": ["test", "trainval"], "EuroSAT": [""]}
    assert splits == known.get(settings["dataset"], ["test", "train", "val"])


# -- what is refused ---------------------------------------------------------------------------


def test_download_when_asked_to(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dataset": f"{HERE}.Fake", "root": str(tmp_path), "image_size": 8}
    with pytest.raises(FileNotFoundError) as error:
        TorchvisionClasses(**settings).prepare_data()
    assert f"under `root` = {tmp_path}" in str(error.value)
    assert str(error.value).endswith("Dataset not found. `download: true` fetches it.")
    TorchvisionClasses(**settings, n_way=2, download=True).prepare_data()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("nothing", {}, "`dataset` must be a class of torchvision.datasets, .*nothing'"),
        ("labels_of", {}, "`dataset` must be a class, got"),
        ("Fake", {"parts": ({"split": "a"},)}, r"`parts` must be arguments of .*Fake, root, part"),
        ("Fake", {"parts": ()}, "`parts` must hold the arguments of at least one part"),
        ("FakeData", {"download": True}, "`download` must be false, FakeData cannot download"),
        ("Tensors", {}, "`dataset` must give PIL images .* got Tensor from Tensors"),
        ("TwoLabels", {}, r"one class number, got int64 \[60, 2\] for the 60 images"),
        ("Fake", {"query_shot": 5}, r"at most 5 \(images of the class 'kind .* got 1 \+ 5 = 6"),
        ("Fake", {"n_way": 4}, r"`n_way` must be at most 3 \(classes in the val split\), got 4"),
        (
            "Fake",
            {"classes": {"train": ["kind 0", "dog"]}, "fractions": None},
            "`classes` must name classes that are there, 12 like 'kind 0', got 'dog'",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, kind: str, settings: dict[str, Any], message: str
) -> None:
    """A22 among them."""

    def begin() -> None:
        data = make(tmp_path, kind, **settings)
        data.prepare_data()
        data.setup()

    with pytest.raises(ValueError, match=message):
        begin()


def test_classes_of_one_name_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(f"{HERE}.Fake.classes", ("a", "b", "a"))
    with pytest.raises(ValueError, match=r"different names, got twice \['a'\]"):
        make(tmp_path).class_images()


def test_labels_of_any_integer_type(tmp_path: Path) -> None:
    """A30: lists, arrays and tensors of int32, uint8, int64 are the same labels."""
    make(tmp_path)
    fake = Fake(str(tmp_path))
    expected = labels_of(fake)
    plain = fake.targets

    def kinds() -> Iterator[Any]:
        for dtype in (torch.int32, torch.uint8, torch.int64):
            yield torch.tensor(plain, dtype=dtype)
            yield torch.tensor(plain, dtype=dtype).numpy()

    for labels in kinds():
        fake.targets = labels
        assert labels_of(fake).dtype == np.int64
        assert (labels_of(fake) == expected).all()
    fake.targets = [float(label) for label in plain]  # type: ignore[misc]
    with pytest.raises(ValueError, match="one class number, got float64"):
        labels_of(fake)
