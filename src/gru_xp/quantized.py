"""`quantize`: the weights of a model in 8 or 16 bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, overload

from .discovery import load as load_backend
from .errors import RangeError, StructureError
from .loading import as_model, prepared_narrow
from .module import GRU, as_stored
from .narrow import ACTIVATIONS, WEIGHTS, Activations, Narrow, Weights, integers
from .params import CellParams, ParamsLike
from .prepared import PreparedParams
from .stored import StoredGRU, rounded_to_bfloat16

__all__ = ["narrowed", "quantize"]

#: the largest weight that is taken: beyond it 127 times its scale would not be finite
LARGEST = 1e38


@overload
def quantize(model_or_params: GRU, weights: Weights = ..., activations: Activations = ...) -> GRU: ...
@overload
def quantize(
    model_or_params: ParamsLike | PreparedParams, weights: Weights = ..., activations: Activations = ...
) -> PreparedParams: ...


def quantize(
    model_or_params: GRU | ParamsLike | PreparedParams, weights: Weights = "int8", activations: Activations = "float32"
) -> GRU | PreparedParams:
    """Store weights in 8 or 16 bits; gates, biases, the state and sums stay float32.

    Args:
        model_or_params: a model, or parameters as `gru` takes them; of any dtype.
        weights: "int8", symmetric with one scale for each row of W_ih and W_hh, so for each gate and unit; "bfloat16"
            or "float16", each weight rounded to the nearest.
        activations: "float32"; or "int8", with int8 weights, to round x and the state to 8 bits before each product,
            with the largest of each row of x as its scale, and 1 as that of a state that stays within [-1, 1]. The sums
            are then exact integers, the same on every machine (`gru_xp.integers` has the definition).

    Returns:
        A `GRU` for a model, else what `prepare` gives: for `gru_inference`, `gru`, `GRU.from_params`, a step and a
        stream, in float32, at the same place. `save` and `load` keep it. No gradient goes to it.

    Raises:
        RangeError: a weight is not finite, or too large for the format.

    >>> import numpy as np, gru_xp
    >>> model = gru_xp.GRU(64, 128, seed=0)
    >>> narrow = gru_xp.quantize(model)
    >>> x = np.random.default_rng(0).normal(size=(100, 1, 64)).astype("f4")
    >>> bool(abs(narrow(x)[0] - model(x)[0]).max() < 0.01)
    True
    """
    for name, value, known in (("weights", weights, WEIGHTS), ("activations", activations, ACTIVATIONS)):
        if not isinstance(value, str) or value not in known:
            raise StructureError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")
    if activations == "int8" and weights != "int8":
        raise StructureError(f"activations: expected 'float32' beside {weights} weights, got 'int8'")
    is_model = isinstance(model_or_params, GRU)
    model: GRU = model_or_params if is_model else GRU.from_params(model_or_params)  # type: ignore[arg-type, assignment]
    own = model._own
    if own.narrow is not None:
        raise StructureError(f"model_or_params: expected weights that are not quantised yet, got {own.narrow}")
    stored = narrowed(as_stored(model), weights, activations)
    return as_model(stored, own.place) if is_model else prepared_narrow(stored, own.place)


def narrowed(stored: StoredGRU, weights: Weights, activations: Activations = "float32") -> StoredGRU:
    """A record in host memory with its weights rounded, as float32 numbers, and how they are stored."""
    xp = load_backend("numpy").xp
    scales: list[tuple[CellParams, ...]] = []

    def cell(w: CellParams, where: str) -> CellParams:
        rounded, factors = [], []
        for name, W in zip(w._fields, w, strict=True):
            W = None if W is None else xp.astype(W, xp.float32)
            if W is not None and not bool(xp.all(xp.abs(W) < LARGEST)):
                raise RangeError(f"{where}.{name}: expected finite numbers up to {LARGEST:g}; clip them first")
            if W is not None and W.ndim == 2:
                W, scale = _rounded(W, weights, xp)
                if not bool(xp.all(xp.isfinite(W))):
                    raise RangeError(f"{where}.{name}: expected numbers that {weights} can hold; clip them first")
                factors.append(scale)
            rounded.append(W)
        scales[-1] += (CellParams(factors[0], factors[1]),)
        return CellParams(*rounded)

    params = []
    for index, layer in enumerate(stored.params):
        scales.append(())
        params.append(tuple(cell(w, f"params[{index}][{d}]") for d, w in enumerate(layer)))
    narrow = Narrow(weights, activations, tuple(scales) if weights == "int8" else None)
    return replace(stored, params=tuple(params), dtype="float32", narrow=narrow)


def _rounded(W: Any, weights: Weights, xp: Any) -> tuple[Any, Any]:
    """The weights as float32 numbers, and the scales (M,) of rows; no scales in 16 bits."""
    if weights == "bfloat16":
        return rounded_to_bfloat16(W), None
    if weights == "float16":
        with xp.errstate(over="ignore"):
            return xp.astype(xp.astype(W, xp.float16), xp.float32), None
    scale = xp.max(xp.abs(W), axis=1, initial=0.0) / xp.float32(127)
    return integers(W, scale, xp) * scale[:, None], scale
