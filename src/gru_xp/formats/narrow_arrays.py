"""Weights in 8 and 16 bits as a few arrays, however many layers there are, so that the header of a file stays small.

`weight_ih_l0` (1, D, 3H, I), `weight_ih` (L-1, D, 3H, D*H) of the layers above, `weight_hh` (L, D, 3H, H); with biases
`biases` (L, D, 2, 3H); in 8 bits the integers, and `scales` (L, D, 2, 3H), of the rows of both weights. Layers whose
weights are kept in float32 are left out of these, and are in `weight_ih_float32` and `weight_hh_float32` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.narrow import Narrow, integers
from gru_xp.params import CellParams, Params, Sizes
from gru_xp.stored import StoredGRU, Tensor

__all__ = ["arrays_of", "params_of"]


class _Entry(NamedTuple):
    """One array: which of the parameters it has, of which layers."""

    fields: tuple[str, ...]
    layers: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str


def _entries(sizes: Sizes, narrow: Narrow) -> dict[str, _Entry]:
    """All arrays by name."""
    I, H, L, D, bias = sizes
    kept = narrow.kept
    stored = tuple(layer for layer in range(L) if layer not in kept)
    rows = (D, 3 * H)
    first = "float32" if 0 in kept else narrow.weights
    found = {"weight_ih_l0": _Entry(("W_ih",), (0,), (1, *rows, I), first)}
    for ending, layers, dtype in (("", stored, narrow.weights), ("_float32", kept, "float32")):
        upper = tuple(layer for layer in layers if layer > 0)
        if upper:
            found[f"weight_ih{ending}"] = _Entry(("W_ih",), upper, (len(upper), *rows, D * H), dtype)
        if layers:
            found[f"weight_hh{ending}"] = _Entry(("W_hh",), layers, (len(layers), *rows, H), dtype)
    if bias:
        found["biases"] = _Entry(("b_ih", "b_hh"), tuple(range(L)), (L, D, 2, 3 * H), "float32")
    if narrow.weights == "int8":
        found["scales"] = _Entry(("W_ih", "W_hh"), stored, (len(stored), D, 2, 3 * H), "float32")
    return found


def arrays_of(gru: StoredGRU, sizes: Sizes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and their dtypes; bfloat16 is held as float32."""
    narrow = gru.narrow
    assert narrow is not None
    arrays, dtypes = {}, {}
    for name, entry in _entries(sizes, narrow).items():
        source = narrow.scales if name == "scales" else gru.params
        assert source is not None
        cells = [[source[layer][d] for d in range(sizes.D)] for layer in entry.layers]
        values = np.asarray([[[getattr(w, field) for field in entry.fields] for w in layer] for layer in cells])
        values = values.reshape(entry.shape)
        if entry.dtype == "int8":
            scales = [[narrow.scales_of(layer, d) for d in range(sizes.D)] for layer in entry.layers]
            rows = np.asarray([[getattr(s, entry.fields[0]) for s in layer] for layer in scales])
            values = integers(values.reshape(rows.size, entry.shape[-1]), rows.reshape(-1), np).reshape(entry.shape)
        arrays[name] = values.astype({"int8": "i1", "float16": "f2"}.get(entry.dtype, "f4"))
        dtypes[name] = entry.dtype
    return arrays, dtypes


def params_of(tensors: Mapping[str, Tensor], sizes: Sizes, narrow: Narrow, where: str) -> tuple[Params, Params | None]:
    """The parameters in float32, and the scales; what is missing, damaged or too much is an error."""
    if sum(prod(tensor.shape) for tensor in tensors.values()) < sizes.L:
        raise FileFormatError(f"{where}: expected the arrays of {sizes.L} layers, got fewer numbers")
    entries = _entries(sizes, narrow)
    for name in sorted(entries.keys() | tensors.keys()):
        expected = f"{entries[name].dtype} {entries[name].shape}" if name in entries else "nothing"
        got = f"{tensors[name].dtype} {tensors[name].shape}" if name in tensors else "nothing"
        if expected != got:
            raise FileFormatError(f"{where}: {name}: expected {expected}, got {got}")
    cells: dict[tuple[int, int, str], Any] = {}
    scales: dict[tuple[int, int, str], Any] = {}
    for name, entry in entries.items():
        values = tensors[name].read()
        if name == "scales" and not ((values >= 0) & (values < np.inf)).all():
            raise FileFormatError(f"{where}: scales: expected finite numbers that are not negative")
        if entry.dtype == "int8" and narrow.activations == "int8" and (values == -128).any():
            raise FileFormatError(f"{where}: {name}: expected integers from -127 to 127 beside int8 activations")
        into = scales if name == "scales" else cells
        rows = values if len(entry.fields) == 2 else values[:, :, None]
        for index, layer in enumerate(entry.layers):
            for d in range(sizes.D):
                into |= {(layer, d, field): rows[index, d, at] for at, field in enumerate(entry.fields)}
    for key, scale in scales.items():
        cells[key] = cells[key] * scale[:, None]

    def cell(found: dict[tuple[int, int, str], Any], layer: int, d: int) -> CellParams:
        held = (found.get((layer, d, field)) for field in CellParams._fields)
        return CellParams(*(None if a is None else np.ascontiguousarray(a, "f4") for a in held))

    params, read = (
        tuple(tuple(cell(found, layer, d) for d in range(sizes.D)) for layer in range(sizes.L))
        for found in (cells, scales)
    )
    return params, read if narrow.weights == "int8" else None
