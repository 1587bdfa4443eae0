"""Where CPython keeps the items of a tuple, and NumPy the address and the flags of an array: found by looking."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np

__all__ = ["offsets"]


@cache
def offsets() -> tuple[int, int, int, int]:
    """The first fields of `fields.Sizes`."""
    arrays = np.empty(3), np.empty((2, 5), np.float32).T

    def found(what: str, kind: Any, holders: tuple[Any, ...], integers: list[int]) -> int:
        for at in range(8, 128, 8):
            if [kind.from_address(id(holder) + at).value for holder in holders] == integers:
                return at
        raise RuntimeError(f"the layout of {what} is unknown")

    items_at = found("Python's tuples", ctypes.c_int64, (arrays, arrays[::-1]), [id(arrays[0]), id(arrays[1])])
    data_at = found("NumPy's arrays", ctypes.c_int64, arrays, [array.ctypes.data for array in arrays])
    flags_at = found("NumPy's arrays", ctypes.c_int32, arrays, [array.flags.num for array in arrays])
    return items_at, data_at, flags_at, id(None)
