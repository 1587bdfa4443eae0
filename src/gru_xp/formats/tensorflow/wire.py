"""Protocol buffers, as far as a reader of a few messages needs them: the fields of a message by their numbers.

https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from gru_xp.errors import FileFormatError

__all__ = ["Value", "fields", "number", "piece", "text", "varint"]

Value: TypeAlias = "int | memoryview"
MOST_BYTES = 10  # of a varint


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length, and where the next byte is."""
    value = 0
    for index in range(MOST_BYTES):
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise FileFormatError(f"expected a number of at most {MOST_BYTES} bytes")


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message: numbers as they are, everything else as its bytes."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value: Value
            value, at = varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = int.from_bytes(_piece(data, at, size), "little"), at + size
        elif kind == 2:
            size, at = varint(data, at)
            value, at = _piece(data, at, size), at + size
        else:
            raise FileFormatError(f"expected a field of a message, got one of kind {kind}")
        yield key >> 3, value


def number(value: Value) -> int:
    if not isinstance(value, int):
        raise FileFormatError("expected a number in a message, got bytes")
    return value


def text(value: Value) -> str:
    return str(piece(value), "utf-8")


def piece(value: Value) -> memoryview:
    """A message or a string in a message."""
    if isinstance(value, int):
        raise FileFormatError("expected bytes in a message, got a number")
    return value


def _piece(data: memoryview, start: int, size: int) -> memoryview:
    if start + size > len(data):
        raise FileFormatError("a message says that it is longer than it is")
    return data[start : start + size]
