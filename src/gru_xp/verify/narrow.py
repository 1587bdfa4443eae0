"""Weights in 8 and 16 bits in a comparison: what runs them, what rounding allows, and a float32 GRU rounded alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gru_xp.discovery import Place
from gru_xp.discovery import load as load_backend
from gru_xp.loading import as_model
from gru_xp.params import CellParams, weights_of
from gru_xp.quantized import narrowed
from gru_xp.stored import StoredGRU

__all__ = ["flips", "has_integer_products", "rounded_as", "run_with_integers", "told"]

#: roundings of an activation that may be decided otherwise at once, as in the conformance suite's tolerances: each
#: moves the argument of a gate by the largest weight times max|x|, or 1 for a state, over 127
FLIPS = 2.0

#: steps from 0 to the largest weight, as PyTorch's observers choose the scale: half of the range from -128 to 127
PYTORCH = 127.5


def has_integer_products(stored: StoredGRU) -> bool:
    """Whether x and the state are rounded to 8 bits before each product."""
    return stored.narrow is not None and stored.narrow.activations == "int8"


def told(label: str, stored: StoredGRU) -> tuple[str, ...]:
    """What the verdict says of a side with narrow weights."""
    if stored.narrow is None:
        return ()
    how = "by products of integers" if has_integer_products(stored) else "as the float32 numbers that they mean"
    return (f"{label} has {stored.narrow}, compared {how}",)


def run_with_integers(stored: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any]:
    """y and h_n in float32. The scales are found anew, so that what changes the weights need not know of them."""
    again = replace(rounded_as(replace(stored, narrow=None), stored), batch_first=False)
    model = as_model(again, Place(load_backend("numpy"), "cpu"))
    return model(x, h0, lengths=lengths)


def flips(stored: StoredGRU, x: Any) -> float:
    """How far roundings of activations that are decided otherwise may move a result."""
    if not has_integer_products(stored):
        return 0.0
    largest = max(float(np.abs(W).max(initial=0.0)) for W in weights_of(stored.params) if W.ndim == 2)
    return FLIPS * largest * max(1.0, float(np.abs(x).max(initial=0.0))) / 127


def rounded_as(whole: StoredGRU, other: StoredGRU) -> StoredGRU:
    """A GRU in float32 with weights rounded and stored as another's are; the same layers are kept."""
    narrow = other.narrow
    assert narrow is not None
    ours = narrowed(whole, narrow.weights, narrow.activations, narrow.kept)
    if has_integer_products(other) or narrow.scales is None or ours.narrow is None or ours.narrow.scales is None:
        return ours
    if [W.shape for W in weights_of(whole.params)] != [W.shape for W in weights_of(other.params)]:
        return ours
    made = []
    for layer, kept in enumerate(zip(ours.params, ours.narrow.scales, strict=True)):
        given = whole.params[layer], other.params[layer], narrow.scales[layer]
        made.append(
            [_cell(*each) if layer not in narrow.kept else each[3:] for each in zip(*given, *kept, strict=True)]
        )
    params, scales = (tuple(tuple(each[part] for each in layer) for layer in made) for part in (0, 1))
    return replace(ours, params=params, narrow=replace(ours.narrow, scales=scales))


def _cell(w: CellParams, other: CellParams, scale: CellParams, ours: CellParams, our_scale: CellParams) -> Any:
    """The weights of one cell, and their scales."""
    (W_ih, s_ih), (W_hh, s_hh) = map(_as_pytorch, w[:2], other[:2], scale[:2], ours[:2], our_scale[:2])
    return ours._replace(W_ih=W_ih, W_hh=W_hh), CellParams(s_ih, s_hh)


def _as_pytorch(W: Any, other: Any, scale: Any, ours: Any, our_scale: Any) -> tuple[Any, Any]:
    """W (M, K) and its scales with those rows rounded as PyTorch does that the other has so; the rest as `ours`.

    The largest weight of a row, or of the matrix, is at 127.5 steps there, and halves may fall either way.
    """
    if W.size == 0:
        return ours, our_scale
    W = W.astype(np.float32)
    sizes = np.abs(W).max(axis=1)
    step = np.where(scale > 0, scale, 1)
    theirs = np.isclose(sizes / step, PYTORCH, rtol=1e-5) | np.isclose(sizes.max() / step, PYTORCH, rtol=1e-5)
    step = step[:, None]
    rounded = np.where(np.abs(W - other) <= 0.5001 * step, other, np.clip(np.rint(W / step), -128, 127) * step)
    return np.where(theirs[:, None], rounded, ours), np.where(theirs, scale, our_scale)
