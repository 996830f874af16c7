"""Two runs that make the same image cache at the same time, and one that is killed as it does."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import ImageFolder, Omniglot
from datamodules.class_folders import FolderImages

ROUNDS = 5
Make = Callable[[Path, Path], Any]


def omniglot(root: Path, cache: Path) -> Omniglot:
    sizes = {"characters": (7, 3, 2), "n_way": 2, "query_shot": 1}
    return Omniglot(root=str(root), cache_dir=str(cache), **sizes)


def image_folder(root: Path, cache: Path) -> ImageFolder:
    sizes = {"image_size": 8, "n_way": 2, "k_shot": 1, "query_shot": 1}
    return ImageFolder(root=str(root), cache_dir=str(cache), **sizes)


@pytest.fixture(params=[omniglot, image_folder])
def case(request, tmp_path: Path, make_omniglot, write_classes) -> tuple[Make, Path]:
    """What makes the datamodule, and the folder of its images."""
    if request.param is omniglot:
        make_omniglot(tmp_path / "data")
    else:
        write_classes(tmp_path / "data", [f"kind_{i:02}" for i in range(10)], 3)
    return request.param, tmp_path / "data"


def pixels(data: Any) -> dict[str, torch.Tensor]:
    data.prepare_data()
    return {split: images.images for split, images in data.class_images().items()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[split], images) for split, images in expected.items())


def test_two_that_build_at_once_are_both_right(case, tmp_path, monkeypatch) -> None:
    """Each begins before the other has ended, and sees no file before one is complete."""
    make, root = case
    expected = pixels(make(root, tmp_path / "alone"))
    both, cache = threading.Barrier(2, timeout=10), tmp_path / "cache"
    original = FolderImages._read_into

    def together(self: FolderImages, images: Any) -> None:
        both.wait()
        original(self, images)
        assert not list(cache.glob(f"{self.title}-*.images"))
        both.wait()

    monkeypatch.setattr(FolderImages, "_read_into", together)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: pixels(make(root, cache)), range(2)))
    for one in found:
        assert_equal(one, expected)
    assert sorted(path.suffix for path in cache.iterdir()) == [".images"] * len(expected)


def build(make: Make, root: Path, cache: Path, start: Any, found: Any) -> None:
    """In a process of its own: the same again and again, each time into an empty folder."""
    for number in range(ROUNDS):
        start.wait(60)
        images = pixels(make(root, cache / str(number)))
        found.put({split: tensor.numpy().tobytes() for split, tensor in images.items()})


@pytest.mark.slow
def test_two_processes_that_build_at_once_are_both_right(case, tmp_path) -> None:
    make, root = case
    expected = pixels(make(root, tmp_path / "alone"))
    spawn = multiprocessing.get_context("spawn")
    start, found = spawn.Barrier(2), spawn.Queue()
    arguments = (make, root, tmp_path / "cache", start, found)
    runs = [spawn.Process(target=build, args=arguments) for _ in range(2)]
    for run in runs:
        run.start()
    for _ in range(2 * ROUNDS):
        one = found.get(timeout=120)
        assert one == {split: images.numpy().tobytes() for split, images in expected.items()}
    for run in runs:
        run.join()
        assert run.exitcode == 0
    assert not list(tmp_path.rglob("*.part"))


def be_killed(make: Make, root: Path, cache: Path) -> None:
    """In a process of its own: when the first image is in its place."""
    original = FolderImages._read_into

    def read_one(self: FolderImages, images: Any) -> None:
        original(self, images)
        images[1:] = 0
        images.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    FolderImages._read_into = read_one  # type: ignore[method-assign]
    pixels(make(root, cache))


@pytest.mark.slow
def test_what_a_killed_build_left_is_not_taken(case, tmp_path) -> None:
    make, root = case
    expected = pixels(make(root, tmp_path / "alone"))
    arguments = (make, root, tmp_path / "cache")
    run = multiprocessing.get_context("spawn").Process(target=be_killed, args=arguments)
    run.start()
    run.join(120)
    assert run.exitcode == -signal.SIGKILL
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".part"]
    assert_equal(pixels(make(root, tmp_path / "cache")), expected)
