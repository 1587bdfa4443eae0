"""Whether a tape is what `gru_forward` made: anybody may change one, and its arrays have to fit together."""

from __future__ import annotations

from typing import Any

from .checks import assert_shape, sizes_of, structured
from .discovery import assert_same_library, owner
from .errors import DTypeError, StructureError
from .params import LayerTape, Tape

__all__ = ["assert_tape"]

MASKS = "valid", "resets"


def assert_tape(tape: Tape) -> None:
    """Raise an error that names an array which does not fit the others, if there is one."""
    layers, backend = tape.layers, tape.place.backend
    if not isinstance(layers, tuple) or not layers or not all(isinstance(layer, tuple) for layer in layers):
        raise StructureError("tape.layers: expected a tuple of layers, each a tuple of directions")
    for index, layer in enumerate(layers):
        if len(layer) not in (1, 2) or len(layer) != len(layers[0]) or not all(isinstance(t, LayerTape) for t in layer):
            raise StructureError(f"tape.layers[{index}]: expected one LayerTape for each direction")
    sizes = sizes_of(structured(tuple(tuple(t.w for t in layer) for layer in layers)))
    first = layers[0][0]
    if not backend.owns(first.x):
        assert_same_library(first.x, "tape.layers[0][0].x", backend, "the tape's place")
    backend = owner(first.x, "tape.layers[0][0].x")  # the tape's may be an object of its own for the same library
    if len(first.x.shape) != 3:
        raise StructureError(f"tape.layers[0][0].x: expected (T, N, I), got {tuple(first.x.shape)}")
    (T, N, _), H = first.x.shape, sizes.H
    for index, layer in enumerate(layers):
        K = sizes.I if index == 0 else sizes.D * H
        for d, t in enumerate(layer):
            name, same = f"tape.layers[{index}][{d}].", f"T = {T} and N = {N} come from tape.layers[0][0].x"
            for field, letters, shape in (
                ("x", "(T, N, I)" if index == 0 else "(T, N, D*H)", (T, N, K)),
                *((field, "(T, N, H)", (T, N, H)) for field in ("h_prev", "r", "z", "n", "u")),
                *((field, "(T, N)", (T, N)) for field in MASKS),
            ):
                array = getattr(t, field)
                if array is not None or not (field in MASKS or (field in "rznu" and t.r is None)):
                    assert_shape(array, name + field, letters, shape, same)
                    _assert_kind(array, name + field, backend, mask=field in MASKS)
            for field, array in zip(t.w._fields, t.w, strict=True):
                if array is not None:
                    _assert_kind(array, f"{name}w.{field}", backend)


def _assert_kind(array: Any, name: str, backend: Any, *, mask: bool = False) -> None:
    """Of the tape's library, and booleans or floating-point numbers, which may be kept in a narrower type."""
    assert_same_library(array, name, backend, "tape.layers[0][0].x")
    if array.dtype != backend.xp.bool if mask else backend.dtype_name(array.dtype) not in backend.float_names():
        raise DTypeError(f"{name}: expected {'booleans' if mask else 'a floating-point dtype'}, got {array.dtype}")
