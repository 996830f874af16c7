"""Omniglot: layouts, the split by characters, rotations, and the real data."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from datamodules import Omniglot
from datamodules.omniglot import split_characters

SMALL = (7, 3, 2)


def make_small(root: Path, **settings: object) -> Omniglot:
    options = {"characters": SMALL, "n_way": 3, "k_shot": 1, "query_shot": 3} | settings
    return Omniglot(root=str(root), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("place", [".", "omniglot-py", "omniglot", "python"])
def test_every_layout_gives_the_same(
    tmp_path: Path, make_omniglot: Callable[[Path], None], place: str
) -> None:
    make_omniglot(tmp_path / "reference")
    make_omniglot(tmp_path / "data" / place)
    (tmp_path / "data" / place / "images_background" / ".hidden").mkdir()
    episodes = []
    for root in (tmp_path / "reference", tmp_path / "data"):
        data = make_small(root)
        data.prepare_data()
        data.setup("fit")
        episodes.append(next(iter(data.train_dataloader())))
    for one, other in zip(*episodes, strict=True):
        assert torch.equal(one, other)
    assert episodes[0].support_x.shape == (32, 3, 1, 28, 28)
    assert episodes[0].query_y.shape == (32, 9)


def test_ink_is_one_and_paper_zero(tmp_path: Path, make_omniglot: Callable[[Path], None]) -> None:
    make_omniglot(tmp_path)
    data = make_small(tmp_path)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert batch.support_x.dtype == torch.float32
    assert 0.0 <= batch.support_x.min() < batch.support_x.max() <= 1.0
    assert 0.05 < batch.support_x.mean() < 0.15


def test_the_split_depends_on_names_alone() -> None:
    names = [f"a/{i}" for i in range(12)]
    forwards = split_characters({name: [] for name in names}, SMALL)
    torch.manual_seed(5)
    np.random.seed(5)
    backwards = split_characters({name: [] for name in reversed(names)}, SMALL)
    assert {s: list(c) for s, c in forwards.items()} == {s: list(c) for s, c in backwards.items()}
    assert [len(characters) for characters in forwards.values()] == list(SMALL)
    assert sorted(sum(map(list, forwards.values()), [])) == sorted(names)  # noqa: RUF017
    assert list(forwards["train"]) != names[:7]


def test_an_incomplete_copy_is_refused(
    tmp_path: Path, make_omniglot: Callable[[Path], None]
) -> None:
    make_omniglot(tmp_path)
    with pytest.raises(ValueError, match=r"`characters` must sum to 12 .* got 1100 \+ 100 \+ 423"):
        Omniglot(root=str(tmp_path)).setup()


def test_a_character_in_both_folders_is_refused(
    tmp_path: Path, make_omniglot: Callable[[Path], None]
) -> None:
    make_omniglot(tmp_path)
    shutil.copytree(tmp_path / "images_background/Greek", tmp_path / "images_evaluation/Greek")
    with pytest.raises(ValueError, match="in both of images_background and images_evaluation"):
        make_small(tmp_path).setup()


def test_without_data_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="images_background/") as error:
        Omniglot(root=str(tmp_path)).prepare_data()
    for part in (str(tmp_path / "omniglot-py"), "images_evaluation/", "`download: true`"):
        assert part in str(error.value)


def test_download_goes_through_torchvision(
    tmp_path: Path,
    make_omniglot: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def stand_in(root: str, background: bool, download: bool) -> None:
        calls.append((background, download))
        if not background:
            make_omniglot(Path(root) / "omniglot-py")

    monkeypatch.setattr(torchvision.datasets, "Omniglot", stand_in)
    data = make_small(tmp_path, download=True)
    data.prepare_data()
    data.prepare_data()
    assert calls == [(True, True), (False, True)]


def test_a_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torchvision.datasets, "Omniglot", fails)
    with pytest.raises(FileNotFoundError, match=r"Looked for .* The download failed: no route"):
        Omniglot(root=str(tmp_path), download=True).prepare_data()


def test_character_counts_of_the_real_data(omniglot_root: Path) -> None:
    """A26: 1100 / 100 / 423 characters of 20 drawings, disjoint."""
    data = Omniglot(root=str(omniglot_root))
    data.prepare_data()
    images = data.class_images()
    names = {split: set(of_split.names) for split, of_split in images.items()}
    assert {s: len(n) for s, n in names.items()} == {"train": 1100, "val": 100, "test": 423}
    assert len(set.union(*names.values())) == 1623
    assert all((of_split.counts == 20).all() for of_split in images.values())


def test_support_and_query_take_all_drawings(omniglot_root: Path) -> None:
    """A20: one support and 19 query images are the 20 drawings of a character."""
    data = Omniglot(root=str(omniglot_root), query_shot=19, meta_batch_size=100)
    data.setup()
    tasks = data.tasks["train"]
    classes, images = tasks.choose(0, 1000)  # type: ignore[attr-defined]
    assert images.shape == (1000, 5, 20)
    first = classes // 4 * 20
    assert (np.sort(images) == first[..., None] + np.arange(20)).all()
    assert len(np.unique(classes // 4)) > 1000  # of the 1100 characters


def test_all_test_tasks_of_the_real_data_differ(omniglot_root: Path) -> None:
    """The data half of A32."""
    episodes = list(Omniglot(root=str(omniglot_root)).test_dataloader())
    assert len({x.numpy().tobytes() for e in episodes for x in e.support_x}) == 600
