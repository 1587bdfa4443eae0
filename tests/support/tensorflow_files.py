"""Checkpoints and SavedModels as TensorFlow writes them, written by hand: what today's TensorFlow does not write, and
what none would.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent.parent / "formats" / "data"
MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
TYPES = {"float32": 1, "float64": 2, "int32": 3, "float16": 19}
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def unpacked(folder: Path) -> Path:
    """What TensorFlow 2.15 itself saved; expected.npz has what it computes (data/make_tensorflow.py)."""
    with zipfile.ZipFile(DATA / "tensorflow.zip") as archive:
        archive.extractall(folder)
    return folder


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A protocol buffer of these fields."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def entry(
    dtype: int, shape: Sequence[int], offset: int, size: int, *more: tuple[int, int | bytes], shard: int = 0
) -> bytes:
    dims = message(*((2, message((1, size_of))) for size_of in shape))
    return message((1, dtype), (2, dims), (3, shard), (4, offset), (5, size), *more)


def block(rows: Mapping[bytes, bytes], kind: int = 0) -> bytes:
    """Rows that share nothing, and one restart; the checksum is not read."""
    data = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in rows.items())
    return data + struct.pack("<II", 0, 1) + bytes([kind]) + bytes(4)


def table(rows: Mapping[bytes, bytes], kind: int = 0) -> bytes:
    data = block(rows, kind)
    handle = varint(0) + varint(len(data) - 5)
    meta = block({})
    index = block({b"\xff": handle})
    footer = varint(len(data)) + varint(len(meta) - 5) + varint(len(data) + len(meta)) + varint(len(index) - 5)
    return data + meta + index + footer.ljust(40, b"\0") + MAGIC


def graph(nodes: Sequence[tuple[Mapping[str, int], str]]) -> bytes:
    """A TrackableObjectGraph: of each object its children and, of a variable, its key."""
    made = []
    for children, key in nodes:
        fields = [(1, message((1, to), (2, name))) for name, to in children.items()]
        if key:
            fields.append((2, message((1, "VARIABLE_VALUE"), (2, ""), (3, key))))
        made.append((1, message(*fields)))
    return message(*made)


def write_checkpoint(
    prefix: Path, arrays: Mapping[str, Any], objects: bytes | None = None, *, order: str = "<", shards: int = 1
) -> None:
    """An index and its files of numbers, an array to each in turn."""
    data = [b""] * shards
    rows = {b"": message((1, shards), (2, int(order == ">")), (3, message((1, 1))))}
    entries = {}
    for number, (name, array) in enumerate(arrays.items()):
        array, at = np.asarray(array), number % shards
        raw = array.astype(array.dtype.newbyteorder(order)).tobytes()
        entries[name.encode()] = entry(TYPES[array.dtype.name], array.shape, len(data[at]), len(raw), shard=at)
        data[at] += raw
    if objects is not None:
        raw = varint(len(objects)) + bytes(4) + objects
        entries[GRAPH.encode()] = entry(7, (), len(data[0]), len(raw))
        data[0] += raw
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(rows | dict(sorted(entries.items()))))
    for shard, raw in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{shards:05}").write_bytes(raw)
