"""The arrays in an HDF5 file, read in Python alone, so that no C parser meets a file of unknown origin.

It reads what h5py writes unless it is told otherwise, the file format of HDF5 1.0 with its "symbol tables", and of that
what files of weights have: groups, and datasets of numbers in one piece. Everything else is an error that says what.
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t1.html (superblock 0, object headers 1)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.formats.named import Tensor

__all__ = ["SIGNATURE", "datasets"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MOST_OBJECTS = 200_000
DEEPEST = 50
LONGEST = 1000  # characters of a path

DATASPACE, DATATYPE, EXTERNAL, LAYOUT, FILTERS, CONTINUATION, SYMBOLS = 0x01, 0x03, 0x07, 0x08, 0x0B, 0x10, 0x11


def datasets(data: bytes) -> dict[str, Tensor]:
    """Every dataset, by its path: "layers/gru/cell/vars/0". Anything may be raised for a damaged file."""
    return dict(_File(data).walk())


class _Message(NamedTuple):
    kind: int
    data: bytes


class _File:
    def __init__(self, data: bytes):
        if data[:8] != SIGNATURE:
            raise FileFormatError("not an HDF5 file")
        version, offsets, lengths = data[8], data[13], data[14]
        if (version, offsets, lengths) != (0, 8, 8):
            raise FileFormatError(
                f"expected HDF5's first file format (superblock 0), which h5py writes by default, got superblock "
                f"{version}; write it again with h5py.File(..., libver='earliest')"
            )
        self.data = data
        self.objects = 0
        self.budget = 2**20 + 4 * len(data)  # bytes of values; names may share some, but not without end
        self.seen: set[int] = set()

    def walk(self) -> Iterator[tuple[str, Tensor]]:
        (root,) = self.unpack("<Q", 64)
        return self.inside(root, "", 0)

    def inside(self, address: int, path: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        """All datasets at or below an object; one that has two names is met under the first."""
        if address in self.seen:
            return
        self.seen.add(address)
        messages = {message.kind: message.data for message in self.messages(address)}
        if SYMBOLS in messages:
            if depth > DEEPEST or len(path) > LONGEST:
                raise FileFormatError(f"expected at most {DEEPEST} groups in one another, with short names")
            tree, heap = struct.unpack_from("<QQ", messages[SYMBOLS])
            for name, child in self.children(tree, self.heap(heap), DEEPEST):
                yield from self.inside(child, f"{path}/{name}" if path else name, depth + 1)
        elif LAYOUT in messages and DATASPACE in messages and DATATYPE in messages:
            yield path, self.tensor(messages, path)

    def messages(self, address: int) -> Iterator[_Message]:
        """What an object header of version 1 says, its continuations included."""
        version, _, size = self.unpack("<BxHxxxxI", address)
        if version != 1:
            raise FileFormatError(f"expected an object header of version 1, got {version}")
        blocks = [(address + 16, size)]
        for start, length in blocks:  # which grows
            at, end = start, start + length
            while at + 8 <= end:
                self.count()
                kind, size = self.unpack("<HH", at)
                message = _Message(kind, self.slice(at + 8, size))
                at += 8 + size
                if kind == CONTINUATION:
                    blocks.append(struct.unpack("<QQ", message.data[:16]))
                else:
                    yield message

    def children(self, address: int, names: bytes, depth: int) -> Iterator[tuple[str, int]]:
        """The members of a group: names and addresses, from its B-tree."""
        self.count()
        signature, kind, level, count = self.unpack("<4sBBH", address)
        if signature == b"TREE" and kind == 0 and depth > 0:
            for index in range(count):
                (child,) = self.unpack("<Q", address + 24 + 8 + 16 * index)
                yield from self.children(child, names, min(level, depth - 1))
        elif signature == b"SNOD":
            (count,) = self.unpack("<H", address + 6)
            for index in range(count):
                self.count()
                start, child, cached = self.unpack("<QQI", address + 8 + 40 * index)
                if cached != 2:  # a link by name, which may lead anywhere
                    end = names.index(b"\0", start)
                    yield names[start:end].decode()[:LONGEST], child
        else:
            raise FileFormatError("expected a group's B-tree")

    def heap(self, address: int) -> bytes:
        signature, size, start = self.unpack("<4s4xQ8xQ", address)
        if signature != b"HEAP":
            raise FileFormatError("expected a group's names")
        return self.slice(start, size)

    def tensor(self, messages: dict[int, bytes], path: str) -> Tensor:
        shape, (name, dtype) = _shape(messages[DATASPACE]), _dtype(messages[DATATYPE])

        def read() -> np.ndarray:
            layout = messages[LAYOUT]
            if FILTERS in messages or EXTERNAL in messages or layout[:2] != b"\x03\x01":
                raise FileFormatError(f"{path}: expected values in one piece, as they are, got another layout")
            start, size = struct.unpack_from("<QQ", layout, 2)
            if prod(shape) * dtype.itemsize != size:
                raise FileFormatError(f"{path}: {shape} of {name} is not {size} bytes")
            self.budget -= size
            if self.budget < 0:
                raise FileFormatError("asks for more numbers than a file of its size can hold")
            values = np.frombuffer(self.slice(start, size), dtype)
            if name == "bfloat16":
                values = (values.astype("u4") << 16).view("f4")
            return np.array(values.reshape(shape), values.dtype.newbyteorder("="))

        return Tensor(shape, name, read)

    def unpack(self, form: str, address: int) -> Any:
        return struct.unpack(form, self.slice(address, struct.calcsize(form)))

    def slice(self, start: int, size: int) -> bytes:
        if start + size > len(self.data):
            raise FileFormatError(f"says that {size} bytes stand at {start}, and is {len(self.data)} bytes long")
        return self.data[start : start + size]

    def count(self) -> None:
        self.objects += 1
        if self.objects > MOST_OBJECTS:
            raise FileFormatError(f"expected at most {MOST_OBJECTS} parts, got more or a circle")


def _shape(message: bytes) -> tuple[int, ...]:
    version, rank = message[0], message[1]
    if version not in (1, 2) or rank > 32:
        raise FileFormatError(f"expected the shape of an array, got version {version}, rank {rank}")
    return struct.unpack_from(f"<{rank}Q", message, 8 if version == 1 else 4)


def _dtype(message: bytes) -> tuple[str, np.dtype[Any]]:
    """IEEE 754's numbers; two bytes of unknown kind are how Keras writes bfloat16; of anything else a name alone."""
    kind, flags, size = message[0] & 15, message[1], int.from_bytes(message[4:8], "little")
    if kind == 1 and size in (2, 4, 8):
        widths = {2: (10, 5), 4: (23, 8), 8: (52, 11)}  # of mantissa and exponent
        if (message[15], message[13]) == widths[size]:
            dtype = np.dtype(f"{'>' if flags & 1 else '<'}f{size}")
            return dtype.newbyteorder("=").name, dtype
    if kind == 5 and size == 2:
        return "bfloat16", np.dtype("<u2")
    return f"HDF5 type {kind} of {size} bytes", np.dtype(f"V{size}")
