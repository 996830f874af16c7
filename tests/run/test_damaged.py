"""Checkpoints that are not whole, and disks that do not take them."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import train
from lightning_maml.run.checkpointing import AtomicCheckpointIO


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> Path:
    """A copy of the checkpoints of a finished run, at the place where it left them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "small" / "version_0" / "checkpoints"
    shutil.copytree(trained, folder)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def changed(path: Path) -> None:
    """Some bytes in the middle, as a bad disk does it."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(255 - byte for byte in content[middle : middle + 64])
    path.write_bytes(content)


def foreign(path: Path) -> None:
    torch.save({"model": torch.zeros(3)}, path)


@pytest.mark.parametrize("damage", [cut, foreign])
@pytest.mark.parametrize("command", ["fit", "test"])
def test_damaged_checkpoint_is_named_and_the_newest_good_one(
    config, run, refused, damage, command
) -> None:
    (best,) = run.glob("best*.ckpt")
    damage(run / "last.ckpt")
    end = refused(command, f"--config={config}", "--ckpt_path=last")
    assert end.code == 2
    start = "error: `--ckpt_path` must be a checkpoint of a run, got "
    path = Path("runs/small/version_0/checkpoints")
    assert end.message.startswith(start)
    assert str(path / "last.ckpt") in end.message
    assert end.message.endswith(f"The newest beside it that can be read is {path / best.name}.")
    train.main(["test", f"--ckpt_path={best}", "--trainer.accelerator=cpu"])


def test_of_damaged_checkpoints_alone_none_is_named(run, refused) -> None:
    for path in run.iterdir():
        cut(path)
    end = refused("test", f"--ckpt_path={run / 'last.ckpt'}")
    assert "newest" not in end.message


def test_bytes_that_changed_are_noticed(run, refused) -> None:
    changed(run / "last.ckpt")
    end = refused("test", f"--ckpt_path={run / 'last.ckpt'}")
    assert "last.ckpt, which cannot be read as one" in end.message


@contextmanager
def full() -> Iterator[None]:
    """Files grow to 6,000 bytes: less than a checkpoint, more than the logs.

    No fixture, whose end would come after pytest's own line, for a file that is longer.
    """
    resource = pytest.importorskip("resource", reason="not on Windows")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_is_said_and_leaves_no_half_checkpoint(
    config, tmp_path, monkeypatch, refused
) -> None:
    monkeypatch.chdir(tmp_path)
    with full():
        end = refused("fit", f"--config={config}")
    assert end.code == 2
    assert end.message.startswith("error: The checkpoint ")
    assert "cannot be written ([Errno 27] File too large)" in end.message
    assert not [path for path in tmp_path.rglob("*") if "ckpt" in path.name]


def test_full_disk_leaves_the_old_checkpoint(tmp_path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"a": 1}, path)
    with full(), pytest.raises(OSError, match=r"last\.ckpt cannot be written \(\[Errno 27\]"):
        AtomicCheckpointIO().save_checkpoint({"a": torch.zeros(10_000)}, path)
    assert [place.name for place in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True) == {"a": 1}


@pytest.mark.slow
def test_small_file_system_that_is_full(config, tmp_path, monkeypatch, refused) -> None:
    """As above, with a disk of 64 KiB that fills up."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        monkeypatch.chdir(disk)
        (disk / "filling").write_bytes(bytes(40_000))
        end = refused("fit", f"--config={config}")
        assert "No space left on device" in end.message
        assert not [path for path in disk.rglob("*") if "ckpt" in path.name]
    finally:
        monkeypatch.chdir(tmp_path)
        subprocess.run(["umount", str(disk)], check=True)
