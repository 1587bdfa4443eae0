"""NumPy's arrays in a pickle, of NumPy 1 and 2 and of all of pickle's protocols."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.formats.pytorch.storages import MOST_AXES, Budget, unreadable
from gru_xp.formats.pytorch.unpickled import Thing
from gru_xp.stored import Tensor

__all__ = ["array_in"]

HOMES = ("numpy.core.", "numpy._core.")  # of NumPy 1 and 2
BFLOAT16 = "ml_dtypes.bfloat16"


def array_in(thing: Thing, budget: Budget) -> Tensor | None:
    """The array that NumPy would make of it; None if it is none."""
    made = thing.origin.removeprefix(HOMES[0]).removeprefix(HOMES[1])
    if made == "multiarray._reconstruct":  # filled by its state
        kind = getattr(thing.args[0], "origin", "") if thing.args else ""
        state = thing.state
        if kind != "numpy.ndarray" or not isinstance(state, tuple) or len(state) != 5:
            return Tensor((), f"{kind or 'an array'} of NumPy"[:100], unreadable)
        _, shape, dtype, by_columns, data = state
    elif made == "numeric._frombuffer" and len(thing.args) == 4:
        data, dtype, shape, order = thing.args
        by_columns = order == "F"
    elif thing.origin.startswith("numpy.ma."):
        return Tensor((), "a masked array of NumPy", unreadable)
    else:
        return None
    name, kind = _dtype(dtype)
    if kind is None or type(shape) is not tuple or len(shape) > MOST_AXES:
        return Tensor((), name, unreadable)
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise FileFormatError("expected the shape of an array")

    def read() -> np.ndarray:
        raw = _bytes(data)
        if len(raw) != prod(shape) * kind.itemsize:
            raise FileFormatError(f"an array of shape {shape}: expected {prod(shape)} values of {name}")
        budget.spend(2 * len(raw))
        values = np.frombuffer(raw, kind).reshape(shape, order="F" if by_columns else "C")
        if name == "bfloat16":
            values = (values.astype("u4") << 16).view("f4")
        return np.array(values, values.dtype.newbyteorder("="), order="C", copy=True)

    return Tensor(shape, name, read)


def _dtype(thing: Any) -> tuple[str, np.dtype[Any] | None]:
    """NumPy's name of a dtype, and what to read its values as; None where they are no numbers."""
    if not isinstance(thing, Thing) or thing.origin != "numpy.dtype" or not thing.args:
        return "unknown", None
    kind, state = thing.args[0], thing.state
    if getattr(kind, "origin", "") == BFLOAT16:
        return "bfloat16", np.dtype("u2")
    if type(kind) is not str or kind not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        return (kind[:20] if type(kind) is str else "objects"), None
    dtype = np.dtype(kind)
    is_big = isinstance(state, tuple) and len(state) > 1 and state[1] == ">"
    return dtype.name, dtype.newbyteorder(">" if is_big else "<")


def _bytes(data: Any) -> bytes:
    """The raw data: bytes, or text where a protocol has no bytes."""
    if isinstance(data, Thing) and data.origin == "_codecs.encode" and data.args:
        data = data.args[0]
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes):
        raise FileFormatError("an array without its numbers")
    return data
