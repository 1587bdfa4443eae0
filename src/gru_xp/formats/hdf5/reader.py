"""The arrays and some attributes of an HDF5 file, read in Python alone, so that no C parser meets it.

It reads what h5py writes unless it is asked for more, the file format of HDF5 1.0 with its "symbol tables", and of that
what files of weights have: groups, datasets of numbers in one piece, and attributes that are text. What else HDF5 has
is `UnreadKindError`. Names and bytes are counted before they are copied, so that no file costs more than a few times
its size.
https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t1.html (superblock 0, object headers 1)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.formats.regions import Region
from gru_xp.stored import Tensor

__all__ = ["SIGNATURE", "UnreadKindError", "Stored", "read_plain"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MOST_OBJECTS = 200_000
DEEPEST = 50
LONGEST = 1000  # characters of a path
HEAD = 96  # bytes of a superblock
TEXTS = ("model_config", "keras_version", "backend", "layer_names", "weight_names")  # the attributes that are read

DATASPACE, DATATYPE, EXTERNAL, LAYOUT, FILTERS, ATTRIBUTE = 0x01, 0x03, 0x07, 0x08, 0x0B, 0x0C
CONTINUATION, SYMBOLS = 0x10, 0x11
LINKS = {0x02, 0x06, 0x0A}  # of groups of the newer kind, which a single external link makes of an old one
TEXT, VARIABLE = 3, 9  # classes of datatypes


class UnreadKindError(FileFormatError):
    """The file is of a kind of HDF5 that is not read here."""


@dataclass(frozen=True)
class Stored:
    """What stands in a file, by path: "layers/gru/cell/vars/0"; "" is the root."""

    datasets: Mapping[str, Tensor]
    groups: Sequence[str] = ()
    attributes: Mapping[str, Mapping[str, str | list[str]]] = field(default_factory=dict)  # of groups, text alone


def read_plain(data: Region) -> Stored:
    """Everything in a file; its numbers are read when they are asked for. Anything may be raised for a damaged one."""
    with data.kept_open():
        file = _File(data)
        (root,) = file.unpack("<Q", 64)
        return Stored(dict(file.inside(root, "", 0)), file.groups, file.attributes)


class _Message(NamedTuple):
    kind: int
    data: bytes


class _File:
    def __init__(self, data: Region):
        head = data.piece(0, min(HEAD, data.size))
        if head[:8] != SIGNATURE:
            raise FileFormatError("not an HDF5 file")
        version, offsets, lengths = head[8], head[13], head[14]
        if version != 0:
            raise UnreadKindError(f"HDF5 of a newer kind (superblock {version}, as libver='latest' writes)")
        if (offsets, lengths) != (8, 8):
            raise FileFormatError(f"expected addresses of 8 bytes, got {offsets} and {lengths}")
        self.data = data
        self.objects = 0
        self.budget = 2**20 + 4 * data.size  # bytes that are copied; names may share some, but not without end
        self.seen: set[int] = set()
        self.groups: list[str] = []
        self.attributes: dict[str, dict[str, str | list[str]]] = {}

    def inside(self, address: int, path: str, depth: int) -> Iterator[tuple[str, Tensor]]:
        """All datasets at or below an object; one that has two names is met under the first."""
        if address in self.seen:
            return
        self.seen.add(address)
        messages = list(self.messages(address))
        kinds = {message.kind: message.data for message in messages}
        if SYMBOLS in kinds:
            if depth > DEEPEST or len(path) > LONGEST:
                raise FileFormatError(f"expected at most {DEEPEST} groups in one another, with short names")
            self.groups.append(path)
            texts = dict(each for message in messages if message.kind == ATTRIBUTE for each in self.text(message.data))
            if texts:
                self.attributes[path] = texts
            tree, heap = struct.unpack_from("<QQ", kinds[SYMBOLS])
            for name, child in self.children(tree, self.heap(heap), DEEPEST):
                yield from self.inside(child, f"{path}/{name}" if path else name, depth + 1)
        elif LINKS & kinds.keys():
            raise UnreadKindError("HDF5 with groups of a newer kind")
        elif LAYOUT in kinds and DATASPACE in kinds and DATATYPE in kinds:
            yield path, self.tensor(kinds, path)

    def messages(self, address: int) -> Iterator[_Message]:
        """What an object header of version 1 says, its continuations included."""
        if self.data.piece(address, 4) == b"OHDR":
            raise UnreadKindError("HDF5 of a newer kind (object headers 2, as libver='v108' writes)")
        version, _, size = self.unpack("<BxHxxxxI", address)
        if version != 1:
            raise FileFormatError(f"expected an object header of version 1, got {version}")
        blocks = [(address + 16, size)]
        for start, length in blocks:  # which grows
            at, end = start, start + length
            while at + 8 <= end:
                self.count()
                kind, size = self.unpack("<HH", at)
                message = _Message(kind, self.copied(at + 8, size))
                at += 8 + size
                if kind == CONTINUATION:
                    blocks.append(struct.unpack("<QQ", message.data[:16]))
                else:
                    yield message

    def children(self, address: int, names: tuple[int, int], depth: int) -> Iterator[tuple[str, int]]:
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
                    heap, size = names
                    length = min(size - start, LONGEST + 1)
                    yield _name(self.data.piece(heap + start, length) if length > 0 else b""), child
        else:
            raise FileFormatError("expected a group's B-tree")

    def heap(self, address: int) -> tuple[int, int]:
        """Where the names of a group begin, and how many bytes they have."""
        signature, size, start = self.unpack("<4s4xQ8xQ", address)
        if signature != b"HEAP":
            raise FileFormatError("expected a group's names")
        return start, size

    def tensor(self, kinds: Mapping[int, bytes], path: str) -> Tensor:
        shape, (name, dtype) = _shape(kinds[DATASPACE]), _dtype(kinds[DATATYPE])
        layout, external = kinds[LAYOUT], EXTERNAL in kinds
        if (FILTERS in kinds or layout[:2] != b"\x03\x01") and not external:
            raise UnreadKindError(f"{path} is chunked, compressed or otherwise not in one piece")

        def read() -> np.ndarray:
            if external:
                raise FileFormatError(f"{path}: its values stand in another file")
            start, size = struct.unpack_from("<QQ", layout, 2)
            if prod(shape) * dtype.itemsize != size:
                raise FileFormatError(f"{path}: {shape} of {name} is not {size} bytes")
            values = np.frombuffer(self.copied(start, size), dtype)
            if name == "bfloat16":
                values = (values.astype("u4") << 16).view("f4")
            return np.array(values.reshape(shape), values.dtype.newbyteorder("="))

        return Tensor(shape, name, read)

    def text(self, message: bytes) -> Iterator[tuple[str, str | list[str]]]:
        """The name and the text of an attribute, if it is one that is wanted: one string or a list of them."""
        version = message[0]
        *sizes, at = struct.unpack_from("<HHH", message, 2) + (8 if version < 3 else 9,)
        parts = []
        for size in sizes:
            parts.append(message[at : at + size])
            at += -(-size // 8) * 8 if version == 1 else size
        name = _name(parts[0])
        if name.rstrip("0123456789") not in TEXTS:
            return
        if version not in (1, 2, 3) or (version > 1 and message[1]):
            raise UnreadKindError(f"the attribute {name} is of a newer kind (version {version})")
        shape, kind, size = _shape(parts[2]), parts[1][0] & 15, int.from_bytes(parts[1][4:8], "little")
        read: Callable[[bytes], bytes] = bytes
        if kind == VARIABLE and parts[1][1] & 15 == 1:
            read, size = self.variable, 16
        elif kind != TEXT:  # an empty list has numbers' type
            size = max(size, 1)
            if prod(shape):
                return
        count = prod(shape)
        if size == 0 or at + size * count > len(message):
            raise FileFormatError(f"the attribute {name} says that it is longer than it is")
        texts = [read(message[at + size * i : at + size * (i + 1)]).rstrip(b"\0").decode() for i in range(count)]
        yield name, texts if shape else texts[0]

    def variable(self, reference: bytes) -> bytes:
        """A string of variable length, which stands in one of the file's global heaps."""
        size, address, wanted = struct.unpack("<IQI", reference)
        if size == 0:
            return b""
        signature, end = self.unpack("<4s4xQ", address)
        at, end = address + 16, address + end
        while signature == b"GCOL" and at + 16 <= end:
            self.count()
            index, length = self.unpack("<H6xQ", at)
            if index == wanted and size <= length:
                return self.copied(at + 16, size)
            at += 16 + -(-length // 8) * 8
        raise FileFormatError("expected a string in a global heap")

    def unpack(self, form: str, address: int) -> Any:
        return struct.unpack(form, self.data.piece(address, struct.calcsize(form)))

    def copied(self, start: int, size: int) -> bytes:
        self.budget -= size
        if self.budget < 0:
            raise FileFormatError("asks for more numbers than a file of its size can hold")
        return self.data.piece(start, size)

    def count(self) -> None:
        self.objects += 1
        if self.objects > MOST_OBJECTS:
            raise FileFormatError(f"expected at most {MOST_OBJECTS} parts, got more or a circle")


def _name(names: bytes) -> str:
    """The text up to the first zero byte."""
    raw, zero, _ = names[: LONGEST + 1].partition(b"\0")
    if not zero:
        raise FileFormatError(f"expected names of at most {LONGEST} bytes")
    return raw.decode()


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
