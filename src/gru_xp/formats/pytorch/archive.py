"""What holds the pickles and numbers of PyTorch's files: a zip, or since before PyTorch 1.6 five pickles in a row."""

from __future__ import annotations

import io
import re
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.formats.pytorch.storages import Budget, Storage, numpy_dtype
from gru_xp.formats.pytorch.unpickled import unpickled
from gru_xp.formats.regions import Region

__all__ = ["Archive", "is_of_torch", "tree_of_old"]

MOST_PICKLE = 1 << 26  # bytes
SLACK, RATIO = 1 << 20, 64  # what a pickle or a program may grow by where it was compressed
MAGIC = 0x1950A86A20F9469CFC6C
# The first entry of what torch.save, torch.jit.save and torch.export.save write.
FIRST = re.compile(
    rb"[^/]+/(data\.pkl|data/0|constants\.pkl|constants/0|archive_format|data/weights/.*|models/.*|byteorder)"
    rb"|serialized_exported_program\.json"
)


def is_of_torch(head: bytes) -> bool:
    """Whether a file that begins so is one, whatever it is called."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]  # of a zip's first entry
    return (head[:4] == b"PK\x03\x04" and FIRST.fullmatch(name) is not None) or _is_old(head)


class Archive:
    """A zip in which each storage is an entry. It is opened anew for each of them, so that nothing stays open."""

    def __init__(self, file: Path | io.BytesIO, budget: Budget):
        self.file, self.budget = file, budget
        with zipfile.ZipFile(file) as archive:
            self.sizes = {info.filename: info.file_size for info in archive.infolist()}
        names = (
            re.fullmatch(r"([^/.][^/]*/|)(?:data\.pkl|archive_format|models/[^/]+\.json)", name) for name in self.sizes
        )
        self.root = next((match[1] for match in names if match), "")
        order = self.read("byteorder", 10).decode() if f"{self.root}byteorder" in self.sizes else "little"
        self.order: Any = {"little": "<", "big": ">"}[order]

    def __contains__(self, name: str) -> bool:
        return self.root + name in self.sizes

    def under(self, folder: str) -> list[str]:
        """The names below a folder, which are names for `read`."""
        start = self.root + folder
        return [name.removeprefix(self.root) for name in self.sizes if name.startswith(start)]

    def read(self, name: str, most: int) -> bytes:
        """The bytes of an entry, not more than `most`; compressed ones may not grow without end."""
        with zipfile.ZipFile(self.file) as archive:
            info = archive.getinfo(self.root + name)
            if info.file_size > most:
                raise FileFormatError(f"{name}: expected at most {most} bytes, got {info.file_size}")
            if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
                raise FileFormatError(f"{name}: {info.file_size} bytes, not compressed, in {info.compress_size}")
            with archive.open(info) as entry:
                data = entry.read(info.file_size)
        if len(data) != info.file_size:
            raise FileFormatError(f"{name}: expected {info.file_size} bytes, got {len(data)}")
        return data

    def text(self, name: str) -> bytes:
        """The bytes of a pickle, a program or a table."""
        with zipfile.ZipFile(self.file) as archive:
            packed = archive.getinfo(self.root + name).compress_size
        return self.read(name, min(MOST_PICKLE, SLACK + RATIO * min(packed, self.budget.size)))

    def numbers(self, wanted: Storage) -> np.ndarray:
        """The values of a storage, whose key is the name of an entry."""
        kind = numpy_dtype(wanted.dtype)
        size = wanted.size * kind.itemsize
        self.budget.spend(size)
        return np.frombuffer(self.read(wanted.key, size), kind.newbyteorder(self.order), wanted.size)

    def tree(self, pickled: str = "data.pkl", folder: str = "data") -> Any:
        """What a pickle in it holds, with the storages in a folder."""

        @lru_cache(maxsize=1)  # all weights of a module may lie in one
        def storage(wanted: Storage) -> np.ndarray:
            return self.numbers(wanted._replace(key=f"{folder}/{wanted.key}"))

        return unpickled(io.BytesIO(self.text(pickled)), storage, self.budget)


def _is_old(head: bytes) -> bool:
    return head[:2] == b"\x80\x02" and MAGIC.to_bytes(10, "little") in head[:20]


def tree_of_old(path: Path, budget: Budget) -> Any:
    """Magic number, version, byte order and sizes, the tree, the storages' keys; then each storage: count, values."""
    region = Region(path)
    found: dict[str, Storage] = {}
    places: dict[str, int] = {}

    @lru_cache(maxsize=1)  # all weights of a module may lie in one
    def storage(wanted: Storage) -> np.ndarray:
        kind = numpy_dtype(wanted.dtype).newbyteorder("<")
        size = wanted.size * kind.itemsize
        budget.spend(size)
        return np.frombuffer(region.piece(places[wanted.key], size), kind)

    with path.open("rb") as file:
        if not _is_old(file.read(20)):
            raise FileFormatError("torch.save did not write it")
        file.seek(0)
        magic, version, system, tree, keys = (unpickled(file, storage, budget, found) for _ in range(5))
        if magic != MAGIC or version != 1001 or not system["little_endian"]:
            raise FileFormatError("expected a little-endian file of version 1001")
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            if type(key) is not str or count != found[key].size:
                raise FileFormatError("expected the storages that the tensors name")
            places[key] = file.tell()
            file.seek(count * numpy_dtype(found[key].dtype).itemsize, io.SEEK_CUR)
    return tree
