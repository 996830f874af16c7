"""Download a file: resumed where it stopped, checked, and in its place only when complete."""

import hashlib
import http.client
import json
import os
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

BLOCK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 3


@dataclass(frozen=True)
class RemoteFile:
    """A file and what it must be: its size in bytes and its md5 (None: not known)."""

    url: str
    size: int | None = None
    md5: str | None = None


def fetch(remote: RemoteFile, target: Path, timeout: float = TIMEOUT) -> None:
    """Download to `target`, by way of `<target>.part`, which a later call goes on with.

    Raises:
        OSError: if the connection fails; what came stays in the part.
        ValueError: if the content has another size or md5; the part is thrown away.
    """
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            size = _fetch_rest(remote, part, timeout)
            break
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS or isinstance(error, urllib.error.HTTPError):
                have = part.stat().st_size if part.exists() else 0
                raise OSError(
                    f"download of {remote.url} stopped after {have} bytes ({error}); "
                    "the next one goes on there."
                ) from error
    _check(remote, part, size)
    os.replace(part, target)


def zenodo_files(record: str, base_url: str, timeout: float = TIMEOUT) -> dict[str, RemoteFile]:
    """The files of a Zenodo record by name, with size and md5.

    Raises:
        OSError: if the record cannot be reached.
        ValueError: if the answer is not a record's description.
    """
    url = f"{base_url}/api/records/{record}"
    with urllib.request.urlopen(url, timeout=timeout) as response:
        answer = response.read()
    try:
        return {
            entry["key"]: RemoteFile(
                f"{base_url}/records/{record}/files/{entry['key']}",
                int(entry["size"]),
                entry["checksum"].removeprefix("md5:"),
            )
            for entry in json.loads(answer)["files"]
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{url} did not describe the record's files: {error!r}.") from error


@contextmanager
def unpacking_stays_within() -> Iterator[None]:
    """Have whoever unpacks a tar archive here, such as torchvision, refuse what leads out of it.

    Python's `zipfile` always does so, its `tarfile` by default from version 3.14 on.
    While it lasts, that is so in all threads.
    """
    before = tarfile.TarFile.__dict__["extraction_filter"]
    tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
    try:
        yield
    finally:
        tarfile.TarFile.extraction_filter = before


def _fetch_rest(remote: RemoteFile, part: Path, timeout: float) -> int | None:
    """Append what is missing of the part; the whole file's size, as far as it is known."""
    have = part.stat().st_size if part.exists() else 0
    if remote.size is not None and have >= remote.size:
        return remote.size
    request = urllib.request.Request(remote.url)
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        part.unlink()  # longer than the file, so not a part of it
        return _fetch_rest(remote, part, timeout)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            have = 0  # the server knows no ranges and sends everything
        rest = response.headers.get("Content-Length")
        size = remote.size if rest is None else have + int(rest)
        _append(response, part, have, size)
    return size


def _append(response: http.client.HTTPResponse, part: Path, have: int, size: int | None) -> None:
    bar = tqdm(desc=part.stem, initial=have, total=size, unit="B", unit_scale=True)
    with bar, part.open("r+b" if have else "wb") as file:
        file.seek(have)
        while block := response.read(BLOCK):
            file.write(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
        if size is not None and file.tell() < size:
            raise OSError(f"the connection ended at {file.tell()} of {size} bytes")


def _check(remote: RemoteFile, part: Path, size: int | None) -> None:
    expected = remote.size if remote.size is not None else size
    have = part.stat().st_size
    if expected is not None and have != expected:
        part.unlink()
        raise ValueError(f"{remote.url} must have {expected} bytes, got {have}.")
    if remote.md5 is None:
        return
    with part.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 != remote.md5:
        part.unlink()
        raise ValueError(f"{remote.url} must have the md5 {remote.md5}, got {md5}.")
