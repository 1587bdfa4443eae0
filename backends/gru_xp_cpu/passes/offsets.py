"""Where CPython keeps the items of a tuple, and NumPy what an array has: found by looking, and only where it is known.

Everything is looked for within the size that the objects say they have. Other builds (of 32 bits, without a global
lock, for debugging) have other offsets, and what is not found is said: then no kernel runs.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import numpy as np

__all__ = ["offsets", "unknown"]


@cache
def unknown() -> str | None:
    """Why the offsets are not known in this process, or None."""
    if sys.implementation.name != "cpython":
        return f"how {sys.implementation.name} keeps its objects is not known"
    if ctypes.sizeof(ctypes.c_void_p) != 8:
        return f"this Python has addresses of {8 * ctypes.sizeof(ctypes.c_void_p)} bits, and the kernels take 64"
    try:
        offsets()
    except LookupError as error:
        return str(error)
    return None


@cache
def offsets() -> tuple[int, int, int, int, int]:
    """`items_at`, `data_at`, `type_at`, `none` and `array_type` of `fields.Sizes`."""
    arrays = np.empty((3, 4, 5)), np.empty((2, 5), np.float32).T
    pairs = arrays, arrays[::-1]
    items_at = _found("Python's tuples", pairs, tuple.__basicsize__ + 16, [[id(pair[0])] for pair in pairs])
    type_at = _found("Python's objects", arrays, object.__basicsize__, [[id(np.ndarray)]] * 2)
    whole = [
        [
            array.ctypes.data,
            array.ndim,
            array.ctypes.shape,
            array.ctypes.strides,
            None,
            id(array.dtype),
            array.flags.num,
        ]
        for array in arrays
    ]
    data_at = _found("NumPy's arrays", arrays, np.ndarray.__basicsize__, whole)
    return items_at, data_at, type_at, id(None), id(np.ndarray)


def _found(what: str, holders: tuple[Any, ...], size: int, expected: list[list[Any]]) -> int:
    """At which byte all holders have what is expected of each: integers, their addresses, or None for anything."""
    for at in range(8, size - 8 * len(expected[0]) + 8, 8):
        if all(map(_fits, [id(holder) + at for holder in holders], expected)):
            return at
    raise LookupError(f"how {what} lie in memory is not known")


def _fits(address: int, expected: list[Any]) -> bool:
    words = (ctypes.c_int64 * len(expected)).from_address(address)
    for word, value in zip(words, expected, strict=True):
        if isinstance(value, ctypes.Array):
            if not word or list((ctypes.c_int64 * len(value)).from_address(word)) != list(value):
                return False
        elif value is not None and word != value and word & 0xFFFFFFFF != value:
            return False
    return True
