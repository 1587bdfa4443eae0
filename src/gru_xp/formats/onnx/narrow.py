"""Weights in 8 and 16 bits: integers behind DequantizeLinear and 16-bit numbers behind Cast, out and in.

What is read is found by evaluating what stands between the file's numbers and the node once more, with the scales
instead of the numbers: so any exporter's way of moving weights about is followed. It is taken for weights in 8 bits if
each row has one scale, and int8 numbers times that are the node's weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gru_xp.formats.layouts import swapped
from gru_xp.formats.onnx.constants import MOVES, Evaluation, Graph, Unknown
from gru_xp.formats.onnx.quantized import QUANTISING, quantised
from gru_xp.narrow import Narrow, Weights, are_int8, integers
from gru_xp.params import CellParams
from gru_xp.stored import Note, rounded_to_bfloat16

__all__ = ["NOTES", "narrow_of", "stored_rows", "told"]

MOST = 64  # nodes between the file's numbers and a GRU node
NOTES = {
    "int8": Note("exact", "int8 weights", "the file's integers, with one scale for each row"),
    "float16": Note("exact", "float16 weights", "the file's numbers"),
    "bfloat16": Note("exact", "bfloat16 weights", "the file's numbers"),
}
DEQUANTISED = Note(
    "folded",
    "quantised weights",
    "the file holds integers with scales, other than int8 with one scale for each row; they are multiplied out here, "
    "to the numbers that its own runtime uses",
)


def stored_rows(arrays: Sequence[Any], scales: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Integers (D*3H, K) and scales (D*3H,) of the W or R of a node, of one array (3H, K) for each direction."""
    scale = np.concatenate([swapped(each) for each in scales])
    W = np.concatenate([swapped(each) for each in arrays])
    return integers(W, scale, np).astype(np.int8), scale


def told(known: Evaluation, narrow: Narrow | None) -> tuple[Note, ...]:
    """What the report says of the weights of a node."""
    if narrow is not None:
        return (NOTES[narrow.weights],)
    return (DEQUANTISED,) if known.operators & {*QUANTISING} else ()


def narrow_of(known: Evaluation, names: tuple[str, str], arrays: tuple[np.ndarray, np.ndarray]) -> Narrow | None:
    """How W (D, 3H, I) and R (D, 3H, H) of a node are stored in 8 or 16 bits; None if they are float32.

    Args:
        known: what has evaluated them.
        names: of both in the graph.
        arrays: their numbers.
    """
    if any(array.dtype != np.float32 or array.size == 0 for array in arrays):
        return None
    try:
        W, R = (_stored_as(known, name, array) for name, array in zip(names, arrays, strict=True))
    except Unknown:
        return None
    if W is None or R is None or W.weights != R.weights:
        return None
    if W.weights != "int8":
        return Narrow(W.weights)
    cells = tuple(CellParams(*map(swapped, rows)) for rows in zip(W.scales, R.scales, strict=True))
    return Narrow(W.weights, scales=(cells,))


class _StoredAs(NamedTuple):
    weights: Weights
    scales: Any = None  # (D, 3H) for int8


def _stored_as(known: Evaluation, name: str, W: np.ndarray) -> _StoredAs | None:
    """How one of the two is stored."""
    widening, casts = _behind(known.graph, name)
    if widening:
        rows = _scales_of_rows(known, name, W.shape, widening)
        fits = rows is not None and are_int8(W.reshape(-1, W.shape[-1]), rows.reshape(-1), np)
        return _StoredAs("int8", rows) if fits else None
    dtypes = {known.value(node.input[0]).dtype.name for node in casts}
    with np.errstate(over="ignore"):
        if "float16" in dtypes and np.array_equal(W.astype(np.float16), W):
            return _StoredAs("float16")
    if "bfloat16" in dtypes and np.array_equal(rounded_to_bfloat16(W), W):
        return _StoredAs("bfloat16")
    return None


def _behind(graph: Graph, name: str) -> tuple[list[Any], list[Any]]:
    """The nodes that multiply integers out, and the casts, behind a value."""
    widening, casts, waiting, seen = [], [], [name], 0
    while waiting and seen < MOST:
        node = graph.producers.get(waiting.pop())
        if node is None:
            continue
        seen += 1
        if node.op_type == "DequantizeLinear":
            widening.append(node)
        elif node.op_type in MOVES:
            casts += [node] if node.op_type == "Cast" else []
            waiting += list(node.input)[:MOST]
    return widening, casts


def _scales_of_rows(known: Evaluation, name: str, shape: tuple[int, ...], widening: list[Any]) -> np.ndarray | None:
    """The scale of each row (D, 3H), of what multiplies the integers out; None if a row has several."""
    given = {}
    for node in widening:
        ones = np.ones(known.value(node.input[0]).shape, np.int8)
        options = {a.name: a.i for a in node.attribute}
        given[node.output[0]] = quantised("DequantizeLinear", [ones, known.value(node.input[1])], options)
    scales = Evaluation(known.graph, given).value(name)
    if scales.shape != shape or scales.dtype != np.float32:
        return None
    rows: np.ndarray = scales[..., 0]
    return rows if (scales == rows[..., None]).all() else None
