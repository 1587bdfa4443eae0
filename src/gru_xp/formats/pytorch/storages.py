"""Numbers that lie beside a pickle or a table, and tensors, which are views of them."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple, NoReturn

import numpy as np

from gru_xp.errors import ConversionError, FileFormatError
from gru_xp.stored import Tensor

__all__ = ["DTYPES", "MOST_AXES", "Budget", "Storage", "numpy_dtype", "sizes", "unreadable", "view"]

MOST_AXES = 64
DTYPES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "QInt8": "int8",
    "QUInt8": "uint8",
    "QInt32": "int32",
}


class Storage(NamedTuple):
    """Numbers that lie beside the pickle."""

    key: str
    dtype: str
    size: int


class Budget:
    """How many bytes are copied: tensors may share a storage, but not without end."""

    def __init__(self, size: int):
        self.size = size  # of the file
        self.most = self.left = 2**25 + 8 * size
        self.is_reading = True  # afterwards each array has all of it

    def spend(self, size: int) -> None:
        self.left = (self.left if self.is_reading else self.most) - size
        if self.left < 0:
            raise FileFormatError("asks for more numbers than a file of its size can hold")


def numpy_dtype(name: str) -> np.dtype[Any]:
    """What the values of a storage are read as: bfloat16 as its bits."""
    if name not in DTYPES.values():
        raise FileFormatError(f"expected a storage of numbers, got {name[:100]}")
    return np.dtype("u2" if name == "bfloat16" else name)


def sizes(values: Any) -> tuple[Any, ...]:
    """The sizes or strides of a tensor, few enough to be looked at."""
    if type(values) not in (list, tuple) or len(values) > MOST_AXES:
        raise FileFormatError(f"expected the size of a tensor, at most {MOST_AXES} numbers")
    return tuple(values)


def view(
    storage: Storage,
    offset: Any,
    size: Any,
    stride: Any,
    values_of: Callable[[Storage], np.ndarray],
    budget: Budget,
) -> Tensor:
    """A tensor whose numbers lie in a storage; nothing is read yet."""
    size, stride = sizes(size), sizes(stride)
    whole = all(type(n) is int and 0 <= n < 1 << 48 for n in (offset, *size, *stride))
    if not whole or len(size) != len(stride):
        raise FileFormatError("expected a tensor: where it begins in its storage, size and stride")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if prod(size) > 0 and last >= storage.size:
        raise FileFormatError(f"a tensor {size} reads beyond the {storage.size} values of storage {storage.key[:100]}")

    def read() -> np.ndarray:
        values = values_of(storage)
        if storage.dtype == "bfloat16":
            values = (values.astype("u4") << 16).view("f4")
        budget.spend(prod(size) * values.itemsize)
        steps = tuple(step * values.itemsize for step in stride)
        strided = np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)
        return np.array(strided, strided.dtype.newbyteorder("="), order="C", copy=True)

    return Tensor(size, storage.dtype, read)


def unreadable() -> NoReturn:
    raise ConversionError("a tensor that is no array of plain numbers")
