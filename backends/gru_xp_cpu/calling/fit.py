"""Arrays that a kernel did not take as they are: brought into the form that it takes, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np

from gru_xp.errors import DTypeError, ShapeError, StructureError
from gru_xp.params import CellParams
from gru_xp_cpu.passes.fields import BackwardArrays, ForwardArrays, Kind

from .dtypes import DTYPES, dtype_of, gates_dtype, name_of

__all__ = ["fitted", "fitted_weights", "mask", "named_weights"]

BOOLEAN = np.dtype(bool)
FIELDS = {
    "forward": fields(ForwardArrays),
    "backward": fields(BackwardArrays),
    "integers": fields(ForwardArrays),
    "fixed": fields(ForwardArrays),
}


def fitted(kind: Kind, given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The arrays that a call was given, by their names in `passes.fields`, as kernels take them.

    T, N and I come from x, H from h0 or h_prev, the dtype from x. What is of another shape or dtype is an error, which
    names it after `where`; what is only of another layout, byte order or class is copied.
    """
    x, state = _array(where + "x", given["x"]), "h0" if "h0" in given else "h_prev"
    h = _array(where + state, given[state])
    if x.ndim != 3:
        raise ShapeError(f"{where}x: expected (T, N, I), got {x.shape}")
    try:
        stored = dtype_of(x.dtype.newbyteorder("="))
    except KeyError:
        raise DTypeError(f"{where}x: expected {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, got {x.dtype}") from None
    T, N, I = x.shape
    H = h.shape[-1] if h.ndim else 0
    sizes, found = {"T": T, "N": N, "I": I, "H": H, "3H": 3 * H}, {}
    for field in FIELDS[kind]:
        if field.name in given:
            a, beside = given[field.name], field.metadata["beside"]
            name, without = where + field.name, beside is not None and given[beside] is None
            if without and a is not None:
                raise StructureError(f"{name}: expected None, as {where}{beside} is, got {type(a).__name__}")
            if a is not None or not (without or field.metadata["optional"]):
                shape = {letter: sizes[letter] for letter in field.metadata["shape"]}
                if field.type != "Reals":
                    a = _fitted(name, a, BOOLEAN, shape)
                elif field.metadata["stored"]:
                    a = _fitted(name, a, stored, shape, ", as x has")
                else:
                    a = _fitted(name, a, gates_dtype(name_of(stored)), shape, f", as gates over {x.dtype.name} have")
            found[field.name] = a
    return found


def fitted_weights(w: Any) -> list[Any]:
    """The weights of a cell, I and H from their columns."""
    named = named_weights(w)
    columns = [(*_array(name, named[name]).shape, 0, 0)[1] for name in ("W_ih", "W_hh")]
    new = partial(np.empty, dtype=named["W_ih"].dtype)
    return [*fitted("forward", {"x": new((0, 0, columns[0])), "h0": new((0, columns[1])), **named}).values()][2:]


def named_weights(w: Any) -> dict[str, Any]:
    """The weights of a cell by their names."""
    if not isinstance(w, CellParams):
        raise StructureError(f"w: expected CellParams, got {type(w).__name__}")
    return dict(zip(CellParams._fields, w, strict=True))


def mask(name: str, a: Any, T: int, N: int) -> Any:
    """A mask (T, N) of booleans, or None."""
    return None if a is None else _fitted(name, a, BOOLEAN, {"T": T, "N": N})


def _fitted(name: str, a: Any, dtype: Any, sizes: dict[str, int], why: str = "") -> Any:
    a, shape = _array(name, a), tuple(sizes.values())
    if a.dtype.newbyteorder("=") != dtype:
        raise DTypeError(f"{name}: expected {dtype}{why}, got {a.dtype}")
    if a.shape != shape:
        raise ShapeError(f"{name}: expected ({', '.join(sizes)}) = {shape}, got {a.shape}")
    return np.require(a, dtype, ["C", "A"]).view(dtype)  # a dtype with metadata is equal, but another object


def _array(name: str, a: Any) -> Any:
    """A plain array; an error if a subclass says something else of it than NumPy does."""
    if not isinstance(a, np.ndarray):
        raise StructureError(f"{name}: expected an array of NumPy's, got {type(a).__name__}")
    plain = np.asarray(a)
    if a is not plain and (a.shape, a.dtype) != (plain.shape, plain.dtype):
        raise ShapeError(
            f"{name}: expected an array that is what it says, got {type(a).__name__} that says {a.shape} of {a.dtype} "
            f"and is {plain.shape} of {plain.dtype}; pass numpy.asarray({name.rpartition('.')[2]})"
        )
    return plain
