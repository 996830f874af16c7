"""Tar archives that lead out of the folder they are unpacked in."""

import io
import tarfile
from pathlib import Path

import pytest
from torchvision.datasets.utils import extract_archive

from datamodules.labelled_images import make_part

HERE = "tests.datamodules.test_unpacking"


class Unpacks:
    """As torchvision's data sets do it: the archive is at hand in `root`."""

    def __init__(self, root: str, download: bool = False) -> None:
        if download:
            extract_archive(f"{root}/data.tar.gz", root)


def tar(path: Path, *members: tuple[str, str]) -> None:
    """Members are names and either text, or what a link ("-> place") points to."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content.startswith("-> "):
                member.type, member.linkname = tarfile.SYMTYPE, content.removeprefix("-> ")
            member.size = 0 if member.linkname else len(content)
            archive.addfile(member, io.BytesIO(content.encode()))


@pytest.mark.parametrize(
    "members",
    [
        [("../out", "x")],
        [("a/../../out", "x")],
        [("a", "-> .."), ("a/out", "x")],
        [("a", "-> OUTSIDE"), ("a/out", "x")],
        [("a", "-> OUTSIDE/out"), ("a", "x")],
    ],
)
def test_a_tar_archive_that_leads_out_is_refused(tmp_path: Path, members: list) -> None:
    """Python's own default before 3.14 follows it."""
    inside, filtered = tmp_path / "inside", tarfile.TarFile.extraction_filter
    inside.mkdir()
    outside = [(name, content.replace("OUTSIDE", str(tmp_path))) for name, content in members]
    tar(inside / "data.tar.gz", ("first", "x"), *outside)
    with pytest.raises(
        FileNotFoundError, match=r"no .*Unpacks under `root` = .*(outside|absolute path)"
    ):
        make_part(f"{HERE}.Unpacks", inside, {}, download=True)
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert tarfile.TarFile.extraction_filter is filtered


def test_other_archives_are_unpacked_absolute_names_below_the_folder(tmp_path: Path) -> None:
    tar(tmp_path / "data.tar.gz", ("b", "x"), ("c/d", "-> ../b"), (f"{tmp_path}/e", "x"))
    make_part(f"{HERE}.Unpacks", tmp_path, {}, download=True)
    assert (tmp_path / "c" / "d").read_text() == "x"
    assert not (tmp_path / "e").exists()
    assert tmp_path.joinpath(*tmp_path.parts[1:], "e").read_text() == "x"


def test_a_tar_archive_that_ends_early_is_said(tmp_path: Path) -> None:
    tar(tmp_path / "data.tar.gz", ("b", "x" * 10_000))
    content = (tmp_path / "data.tar.gz").read_bytes()
    (tmp_path / "data.tar.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(FileNotFoundError, match="Compressed file ended before"):
        make_part(f"{HERE}.Unpacks", tmp_path, {}, download=True)
