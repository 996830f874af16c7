"""Downloads from a local server: whole, resumed, broken off, and not what was promised."""

import hashlib
import io
import json
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torchvision

from datamodules import Omniglot
from datamodules.download import RemoteFile, fetch, zenodo_files

CONTENT = bytes(range(256)) * 20_000
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Server:
    """Serves `files`; breaks connections off after `budget` bytes, once for each entry."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    budgets: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            state.asked.append(self.headers.get("Range"))
            first = 0
            if state.ranges and (asked := self.headers.get("Range")):
                first = int(asked.removeprefix("bytes=").removesuffix("-"))
                if first >= len(content):
                    self.send_error(416)
                    return
                self.send_response(206)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            budget = state.budgets.pop(0) if state.budgets else len(content)
            self.wfile.write(content[first : first + budget])

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        state.files["/file"] = CONTENT
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def promised(server: Server, size: int | None = len(CONTENT), md5: str | None = MD5) -> RemoteFile:
    return RemoteFile(f"{server.url}/file", size, md5)


def test_a_whole_file(server: Server, tmp_path: Path) -> None:
    fetch(promised(server), tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


@pytest.mark.parametrize("known", [True, False])
def test_a_part_is_gone_on_with(server: Server, tmp_path: Path, known: bool) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    fetch(promised(server) if known else promised(server, None, None), tmp_path / "file")
    assert server.asked == ["bytes=1000-"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_broken_connection_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.budgets = [3_000_000, 1_000_000]
    fetch(promised(server), tmp_path / "file")
    assert server.asked == [None, "bytes=3000000-", "bytes=4000000-"]
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_what_came_is_kept_if_the_connection_stays_broken(server: Server, tmp_path: Path) -> None:
    server.budgets = [1_000_000] * 3
    with pytest.raises(OSError, match="stopped after 3000000 bytes"):
        fetch(promised(server), tmp_path / "file")
    assert not (tmp_path / "file").exists()
    fetch(promised(server), tmp_path / "file")
    assert server.asked[-1] == "bytes=3000000-"
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    fetch(promised(server), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_complete_part_needs_no_connection(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(promised(server), tmp_path / "file")
    assert server.asked == []
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT + b"x")
    fetch(promised(server, None, None), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"md5": "0" * 32}, "must have the md5 0000"),
        ({"size": len(CONTENT) - 1}, "must have 5119999 bytes, got 5120000"),
    ],
)
def test_other_content_is_refused(
    server: Server, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fetch(promised(server, **change), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_missing_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="404"):
        fetch(RemoteFile(f"{server.url}/other"), tmp_path / "file")
    with pytest.raises(OSError, match="stopped after 0 bytes"):
        fetch(RemoteFile("http://127.0.0.1:9/file"), tmp_path / "file")


def test_a_records_files(server: Server) -> None:
    entry = {"key": "a.pkl", "size": 12, "checksum": "md5:abc"}
    server.files["/api/records/7"] = json.dumps({"files": [entry]}).encode()
    url = f"{server.url}/records/7/files/a.pkl"
    assert zenodo_files("7", server.url) == {"a.pkl": RemoteFile(url, 12, "abc")}


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"files": [{"key": 1}]}', b"<html>"])
def test_an_answer_that_is_no_record(server: Server, answer: bytes) -> None:
    server.files["/api/records/7"] = answer
    with pytest.raises(ValueError, match="did not describe the record's files"):
        zenodo_files("7", server.url)


@pytest.fixture
def mini_record(server: Server) -> Callable[[dict[str, bytes]], Server]:
    """Serves files as a Zenodo record."""

    def make(files: dict[str, bytes]) -> Server:
        entries = [
            {
                "key": name,
                "size": len(content),
                "checksum": "md5:" + hashlib.md5(content).hexdigest(),
            }
            for name, content in files.items()
        ]
        server.files["/api/records/7978538"] = json.dumps({"files": entries}).encode()
        for name, content in files.items():
            server.files[f"/records/7978538/files/{name}"] = content
        return server

    return make


def test_the_three_mini_imagenet_pickles(
    mini_record: Callable[[dict[str, bytes]], Server], tmp_path: Path
) -> None:
    from datamodules.mini_imagenet import PICKLES, download_pickles

    server = mini_record({name: name.encode() * 1000 for name in PICKLES})
    (tmp_path / PICKLES[0]).write_bytes(b"is there already")
    download_pickles(tmp_path, server.url)
    assert (tmp_path / PICKLES[0]).read_bytes() == b"is there already"
    assert (tmp_path / PICKLES[2]).read_bytes() == PICKLES[2].encode() * 1000
    incomplete = mini_record({PICKLES[0]: b"x"})
    with pytest.raises(ValueError, match=f"has no file {PICKLES[1]}"):
        download_pickles(tmp_path / "other", incomplete.url)


def zip_that_leads_out(part: str, outside: Path) -> bytes:
    """An image, and what would be written to `outside` and above by an unzip that allows it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"{part}/alphabet/character/0.png", "x")
        archive.writestr("../../out", "x")
        archive.writestr(f"{outside}/out", "x")
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, str(outside / "out"))
    return content.getvalue()


def test_omniglot_of_another_checksum_is_not_unpacked_and_nothing_leads_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, parts = tmp_path / "root", ("images_background", "images_evaluation")
    zips = {part: zip_that_leads_out(part, tmp_path) for part in parts}
    md5s = {part: hashlib.md5(content).hexdigest() for part, content in zips.items()}
    monkeypatch.setattr(torchvision.datasets.Omniglot, "zips_md5", md5s)
    monkeypatch.setattr(torchvision.datasets.Omniglot, "download_url_prefix", server.url)
    server.files |= {f"/{part}.zip": content + b"x" for part, content in zips.items()}
    for _ in range(2):  # what came is not taken for the data the second time either
        with pytest.raises(FileNotFoundError, match=r"The download failed: .*corrupted"):
            Omniglot(root=str(root), download=True).prepare_data()
        assert {path.name for path in root.rglob("*")} == {"omniglot-py", f"{parts[0]}.zip"}
    server.files |= {f"/{part}.zip": content for part, content in zips.items()}
    with pytest.raises(ValueError, match="in both of"):  # unpacked, and looked through
        Omniglot(root=str(root), download=True).prepare_data()
    folder = root / "omniglot-py"
    assert not (folder / "link").is_symlink()
    assert {path.name for path in folder.iterdir()} >= {"link", "out", *parts}
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
