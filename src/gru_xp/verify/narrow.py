"""Weights in 8 and 16 bits in a comparison: what runs them, what rounding allows, and a float32 GRU rounded alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gru_xp.discovery import Place
from gru_xp.discovery import load as load_backend
from gru_xp.loading import as_model
from gru_xp.params import weights_of
from gru_xp.quantized import narrowed
from gru_xp.stored import StoredGRU

__all__ = ["flips", "has_integer_products", "rounded_as", "run_with_integers", "told"]

#: roundings of an activation that may be decided otherwise at once, as in the conformance suite's tolerances: each
#: moves the argument of a gate by the largest weight times max|x|, or 1 for a state, over 127
FLIPS = 2.0


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
    return narrowed(whole, narrow.weights, narrow.activations, narrow.kept)
