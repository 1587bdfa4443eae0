"""TensorFlow's checkpoints: an index, which is a table of LevelDB's, and files of numbers that it points into.

The table: https://github.com/google/leveldb/blob/main/doc/table_format.md. Its values are TensorFlow's messages
BundleHeaderProto, under the key "", and BundleEntryProto, under the names of the arrays (tensor_bundle.proto).
TensorFlow has always written it without compression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.stored import Tensor

from .wire import fields, number, piece, varint

__all__ = ["Checkpoint", "prefix_of"]

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER = 48
TYPES = {1: "float32", 2: "float64", 14: "bfloat16", 19: "float16"}  # types.proto
OTHERS = {3: "int32", 4: "uint8", 6: "int8", 7: "string", 9: "int64", 10: "bool"}
LONGEST = 10_000  # bytes of a name
MOST_DIMS = 32


@dataclass(frozen=True)
class _Entry:
    """Where an array is."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    sliced: bool


class Checkpoint:
    """The arrays of a checkpoint, `ckpt-1` of ckpt-1.index and ckpt-1.data-00000-of-00001."""

    def __init__(self, prefix: Path):
        self.prefix = prefix
        data = prefix.with_name(f"{prefix.name}.index").read_bytes()
        self.shards = 1
        self.order = "<"
        self.entries: dict[str, _Entry] = {}
        for key, value in _rows(memoryview(data)):
            if key:
                self.entries[key.decode()] = _entry(value)
            else:
                head = dict(fields(value))
                self.shards, self.order = number(head.get(1, 1)), ">" if head.get(2) else "<"

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """By their names in the index, all but strings."""
        return {name: self._tensor(name, entry) for name, entry in self.entries.items() if entry.dtype != 7}

    def string(self, name: str) -> bytes:
        """A string alone: its length, the checksum of that, and the bytes."""
        entry = self.entries[name]
        data = memoryview(self._bytes(name, entry))
        length, at = varint(data, 0)
        if entry.dtype != 7 or entry.shape or at + 4 + length != len(data):
            raise FileFormatError(f"{name}: expected one string")
        return bytes(data[at + 4 :])

    def _tensor(self, name: str, entry: _Entry) -> Tensor:
        dtype = TYPES.get(entry.dtype) or OTHERS.get(entry.dtype, f"TensorFlow's type {entry.dtype}")

        def read() -> np.ndarray:
            if entry.sliced:
                raise FileFormatError(f"{name}: a variable in several parts, which is not read")
            if dtype not in TYPES.values():
                raise FileFormatError(f"{name}: expected one of {', '.join(TYPES.values())}, got {dtype}")
            stored = np.dtype("u2" if dtype == "bfloat16" else dtype).newbyteorder("<" if self.order == "<" else ">")
            if prod(entry.shape) * stored.itemsize != entry.size:
                raise FileFormatError(f"{name}: {entry.shape} of {dtype} is not {entry.size} bytes")
            values = np.frombuffer(self._bytes(name, entry), stored)
            if dtype == "bfloat16":
                values = (values.astype("u4") << 16).view("f4")
            return np.array(values.reshape(entry.shape), values.dtype.newbyteorder("="))

        return Tensor(entry.shape, dtype, read)

    def _bytes(self, name: str, entry: _Entry) -> bytes:
        file = self.prefix.with_name(f"{self.prefix.name}.data-{entry.shard:05}-of-{self.shards:05}")
        if not file.is_file():
            raise FileFormatError(f"{name}: its numbers are in {file.name}, which is not beside the index")
        if entry.offset + entry.size > file.stat().st_size:
            raise FileFormatError(f"{file.name}: expected {entry.size} bytes at {entry.offset} for {name}")
        with file.open("rb") as opened:
            opened.seek(entry.offset)
            return opened.read(entry.size)


def prefix_of(path: Path) -> Path | None:
    """The checkpoint that a path names: itself, one of its files, or the newest in a folder. None if there is none."""
    name = path.name
    if name.endswith(".index"):
        return path.with_name(name.removesuffix(".index"))
    if ".data-" in name and path.is_file():
        path = path.with_name(name.rpartition(".data-")[0])
    folder, newest = (path, path / "checkpoint") if path.is_dir() else (path.parent, path)
    if newest.name == "checkpoint" and newest.is_file():  # a text file, whose first line names the newest
        with newest.open("rb") as opened:
            line = opened.read(LONGEST).decode(errors="replace").partition("\n")[0]
        told = line.partition('"')[2].rpartition('"')[0]
        if line.startswith("model_checkpoint_path:") and told:
            path = folder / Path(told).name  # a path of the machine that wrote it, maybe
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        path = found[0].with_suffix("") if len(found) == 1 else path
    return path if path.name and path.with_name(f"{path.name}.index").is_file() else None


# ---- the table -------------------------------------------------------------------------------------------------------


def _rows(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Every key and value of a table."""
    if len(data) < FOOTER or data[-8:] != MAGIC:
        raise FileFormatError("expected the index of a checkpoint, a table of LevelDB's")
    at = len(data) - FOOTER
    for _ in range(2):
        _, at = varint(data, at)  # of the metaindex, which is empty
    budget = _Budget(2**20 + 16 * len(data))
    start, at = varint(data, at)
    size, at = varint(data, at)
    for _, handle in _block(data, start, size, budget):
        start, at = varint(handle, 0)
        size, _ = varint(handle, at)
        yield from _block(data, start, size, budget)


@dataclass
class _Budget:
    """Bytes of blocks and of names, which may be named and shared again and again."""

    left: int

    def take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise FileFormatError("asks for more names than a file of its size can hold")


def _block(data: memoryview, start: int, size: int, budget: _Budget) -> Iterator[tuple[bytes, memoryview]]:
    if start + size + 5 > len(data) or size < 4:
        raise FileFormatError("a block that is not in the table")
    if data[start + size] != 0:
        raise FileFormatError("a compressed index, as no TensorFlow writes it")
    budget.take(size)
    block = data[start : start + size]
    restarts = int.from_bytes(block[-4:], "little")
    end = size - 4 - 4 * restarts
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at)
        rest, at = varint(block, at)
        length, at = varint(block, at)
        if shared > len(key) or shared + rest > LONGEST or at + rest + length > end:
            raise FileFormatError("a row that is not in its block")
        budget.take(shared + rest)
        key = key[:shared] + bytes(block[at : at + rest])
        at += rest
        yield key, block[at : at + length]
        at += length


def _entry(message: memoryview) -> _Entry:
    found = {1: 0, 3: 0, 4: 0, 5: 0}
    shape: tuple[int, ...] = ()
    sliced = False
    for field, value in fields(message):
        if field in found:
            found[field] = number(value)
        elif field == 2:
            shape = tuple(_size(dim) for each, dim in fields(piece(value)) if each == 2)
        elif field == 7:
            sliced = True
    if len(shape) > MOST_DIMS or any(size > 2**62 for size in shape):
        raise FileFormatError("expected the shape of an array")
    return _Entry(found[1], shape, found[3], found[4], found[5], sliced)


def _size(dim: object) -> int:
    return next((number(value) for field, value in fields(piece(dim)) if field == 1), 0)  # type: ignore[arg-type]
