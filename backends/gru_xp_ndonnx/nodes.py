"""The nodes of a call: for each layer a GRU, and what turns its y (T, D, N, H) into (T, N, D*H).

T and N may be unknown, here and to the model, which then runs with any. What has values becomes constants of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ndonnx as xp
import numpy as np
import spox.opset.ai.onnx.v21 as op  # the operators that ndonnx itself uses

from gru_xp.arguments import SEQUENCE, Arguments, check
from gru_xp.checks import assert_expected, host_lengths, host_values
from gru_xp.discovery import assert_same_library
from gru_xp.errors import DTypeError, StructureError
from gru_xp.formats.onnx.operator import attributes, stacked
from gru_xp.params import CellParams, GRUSpec, Sizes

if TYPE_CHECKING:
    from gru_xp.backend import Backend

__all__ = ["call", "values"]


def call(backend: Backend, a: Arguments, spec: GRUSpec) -> tuple[Any, Any]:
    """y (T, N, D*H) and h_n (L*D, N, H)."""
    dtype = backend.dtype_name(a.x.dtype)
    if dtype == "float64":
        raise DTypeError(
            "x: expected float32 or float16, got float64, for which onnxruntime has no GRU; "
            "cast x and the parameters: x.astype(ndonnx.float32)"
        )
    if a.resets is not None:
        raise StructureError(
            "resets: expected None, because ONNX's GRU has no resets; split the sequences where they begin anew, and "
            "give lengths"
        )
    checked = check("inference", a._replace(lengths=None, mask=None), spec, backend, None, SEQUENCE)
    if checked.integers:
        raise StructureError(
            f"params: expected weights alone to be narrow, got {checked.prepared and checked.prepared.narrow}, and "
            f"ONNX's GRU has no int8 activations; quantize(..., activations='float32')"
        )
    x, h0, sizes = checked.x, checked.h0, checked.sizes
    lengths = _lengths(backend, a, checked.batched)
    if lengths is not None and spec.padding == "hold":
        raise StructureError(
            "spec: expected padding='zero', because past a row's end ONNX's GRU puts out 0, got 'hold'"
        )
    options = attributes(spec, sizes.H, sizes.D)
    if 0 in x.shape[:2]:  # which onnxruntime does not survive
        return _nothing(x, h0, sizes, batched=checked.batched)
    y, states = x, []
    for index, directions in enumerate(checked.params):
        start = None if h0 is None else h0[index * sizes.D : (index + 1) * sizes.D, ...]
        given = [y, *_weights(directions), *[None] * (directions[0].b_ih is None), lengths, start]
        out, h_n = op.gru(*(None if each is None else each.unwrap_spox() for each in given), **options)
        states.append(h_n)
        by_row = op.transpose(out, perm=[0, 2, 1, 3])
        y = xp.asarray(op.reshape(by_row, op.const(np.asarray([0, 0, sizes.D * sizes.H], np.int64))))
        if checked.dropout_masks is not None and index + 1 < sizes.L:
            y = y * checked.dropout_masks[index, ...]
    last = xp.asarray(states[0] if len(states) == 1 else op.concat(states, axis=0))
    if h0 is not None and lengths is not None:
        last = xp.where((lengths == 0)[None, :, None], h0, last)  # where onnxruntime has 0
    return (y, last) if checked.batched else (y[:, 0, :], last[:, 0, :])


def values(array: Any) -> np.ndarray | None:
    """The values of a constant, else None."""
    try:
        return np.asarray(array.unwrap_numpy())
    except ValueError:
        return None


def _weights(directions: tuple[CellParams, ...]) -> list[Any]:
    """W, R and B, as constants where they have values."""
    host = tuple(CellParams(*(None if a is None else values(a) for a in w)) for w in directions)
    known = all(
        a is None or b is not None for w, v in zip(directions, host, strict=True) for a, b in zip(w, v, strict=True)
    )
    return [xp.asarray(a) for a in stacked(host)] if known else stacked(directions, xp)


def _lengths(backend: Backend, a: Arguments, batched: bool) -> Any:
    """sequence_lens (N,), or None where all steps count."""
    if a.mask is not None:
        if a.lengths is not None:
            raise StructureError("mask: expected lengths or mask, got both; a mask says what lengths would")
        return _lengths_of_mask(backend, a, batched)
    if a.lengths is None:
        return None
    T, N = a.x.shape[0], a.x.shape[1] if batched else 1
    lengths = a.lengths
    known = values(lengths) if isinstance(lengths, xp.Array) else None
    host = host_lengths(lengths if known is None else known, T, N, batched=batched)
    if host is not None:
        return None if T is not None and all(number == T for number in host) else xp.asarray(np.asarray(host, np.int32))
    assert_same_library(lengths, "lengths", backend, "x")
    if not backend.dtype_name(lengths.dtype).startswith(("int", "uint")):
        raise DTypeError(f"lengths: expected integers, got {lengths.dtype}")
    if not batched:
        lengths = xp.reshape(lengths, (1,))
    assert_expected(lengths, "lengths", {"N": N}, "N comes from x")
    return xp.astype(lengths, xp.int32)


def _lengths_of_mask(backend: Backend, a: Arguments, batched: bool) -> Any:
    """The lengths that a mask of known values says, if it has no holes."""
    mask = a.mask
    known = values(mask) if isinstance(mask, xp.Array) else np.asarray(host_values(mask, "mask"))
    if known is None:
        raise StructureError("mask: expected lengths, because nobody knows whether a traced mask has holes")
    if known.dtype != bool:
        raise DTypeError(f"mask: expected booleans, got {known.dtype}; compare with zero first")
    letters = ("T", "N") if batched else ("T",)
    assert_expected(known, "mask", dict(zip(letters, a.x.shape, strict=False)), "as x has")
    if (known[1:] & ~known[:-1]).any():
        raise StructureError("mask: expected padding at the end alone, because ONNX's GRU has lengths, got holes")
    return _lengths(backend, a._replace(mask=None, lengths=known.sum(axis=0).reshape(-1)), batched)


def _nothing(x: Any, h0: Any, sizes: Sizes, *, batched: bool) -> tuple[Any, Any]:
    """The results for no step or no row."""
    T, N = x.shape[:2]
    if T is None or N is None:
        raise StructureError(f"x: expected T and N that are not 0, or both known, got {x.shape}")
    y = xp.zeros((T, N, sizes.D * sizes.H), dtype=x.dtype)
    last = xp.zeros((sizes.L * sizes.D, N, sizes.H), dtype=x.dtype) if h0 is None else h0
    return (y, last) if batched else (y[:, 0, :], last[:, 0, :])
