"""Reads what W&B wrote to disk: the rows of a run's ``.wandb`` file, as far as they got.

W&B offers no reader of its own, but the format is LevelDB's log with W&B's protobuf records: a
header of 7 bytes, then blocks of 32 KiB with parts ``crc32, length, type, data``; a record is one
FULL part, or a FIRST, some MIDDLE and a LAST one.
"""

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BLOCK, FILE_HEADER, PART_HEADER = 32768, 7, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def history(folder: Path) -> list[dict[str, Any]]:
    """The logged rows of the run in `folder`, each with its ``_step``; none if nothing is there.

    A file that breaks off, since its run was killed, is read up to that point.
    """
    rows = []
    for record in _records(folder):
        if record.WhichOneof("record_type") == "history":
            rows.append({"_step": record.history.step.num, **_values(record.history.item)})
    return rows


def config(folder: Path) -> dict[str, Any]:
    """The config of the run in `folder`."""
    found: dict[str, Any] = {}
    for record in _records(folder):
        kind = record.WhichOneof("record_type")
        part = record.run.config if kind == "run" else record.config if kind == "config" else None
        found |= {} if part is None else _values(part.update)
    return found


def _values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(folder: Path) -> Iterator[Any]:
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    for file in sorted(folder.glob("*.wandb")):
        for data in _whole_parts(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            yield record


def _whole_parts(content: bytes) -> Iterator[bytes]:
    """The data of each record of a LevelDB log, up to the first that is not whole."""
    place, data = FILE_HEADER, b""
    while True:
        left = BLOCK - place % BLOCK
        if left < PART_HEADER:  # too short for another part: zeros
            place += left
        header = content[place : place + PART_HEADER]
        if len(header) < PART_HEADER:
            return
        checksum, length, kind = struct.unpack("<IHB", header)
        part = content[place + PART_HEADER : place + PART_HEADER + length]
        if kind not in (FULL, FIRST, MIDDLE, LAST) or checksum != zlib.crc32(
            part, zlib.crc32(bytes([kind]))
        ):
            return
        place += PART_HEADER + length
        data = part if kind in (FULL, FIRST) else data + part
        if kind in (FULL, LAST):
            yield data
