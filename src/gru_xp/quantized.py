"""`quantize`: the weights of a model in 8 or 16 bits. `fake_quantize`: the same numbers while a model is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, overload

from .account import losses
from .backend import Backend
from .checks import sizes_of, structured
from .discovery import load as load_backend
from .discovery import owner
from .errors import DTypeError, NotDifferentiableError, RangeError, StructureError
from .integers import LEAST
from .loading import as_model, prepared_narrow
from .module import GRU, as_stored
from .narrow import ACTIVATIONS, WEIGHTS, Activations, Narrow, Weights
from .params import CellParams, Params, ParamsLike, map_params, names_of, weights_of
from .prepared import PreparedParams
from .stored import StoredGRU, rounded_to_bfloat16

__all__ = ["fake_quantize", "narrowed", "quantize"]

#: the largest weight that is taken: beyond it 127 times its scale would not be finite
LARGEST = 1e38


@overload
def quantize(
    model_or_params: GRU,
    weights: Weights = ...,
    activations: Activations = ...,
    *,
    keep_below: float | None = ...,
    x: Any = ...,
) -> GRU: ...
@overload
def quantize(
    model_or_params: ParamsLike | PreparedParams,
    weights: Weights = ...,
    activations: Activations = ...,
    *,
    keep_below: float | None = ...,
    x: Any = ...,
) -> PreparedParams: ...


def quantize(
    model_or_params: GRU | ParamsLike | PreparedParams,
    weights: Weights = "int8",
    activations: Activations = "float32",
    *,
    keep_below: float | None = None,
    x: Any = None,
) -> GRU | PreparedParams:
    """Store weights in 8 or 16 bits; gates, biases, the state and sums stay float32.

    Args:
        model_or_params: a model, or parameters as `gru` takes them; of any dtype.
        weights: "int8", symmetric with one scale for each row of W_ih and W_hh, so for each gate and unit; "bfloat16"
            or "float16", each weight rounded to the nearest.
        activations: "float32"; or "int8", with int8 weights, to round x and the state to 8 bits before each product,
            with the largest of each row of x as its scale, and 1 as that of a state that stays within [-1, 1]. The sums
            are then exact integers, the same on every machine (`gru_xp.integers` has the definition).
        keep_below: the largest difference of y that a layer may add, reading what it reads in float32. Layers that
            exceed it stay float32. By default none does.
        x: what `keep_below` is measured on, as `quantization_account` takes it; by default 10,000 random steps.

    Returns:
        A `GRU` for a model, else what `prepare` gives: for `gru_inference`, `gru`, `GRU.from_params`, a step and a
        stream, in float32, at the same place. `save` and `load` keep it. No gradient goes to it.

    Raises:
        RangeError: a weight is not finite, or too large for the format; or every layer exceeds `keep_below`.
        StructureError: the weights are quantised already; or x comes without `keep_below`.

    >>> import numpy as np, gru_xp
    >>> model = gru_xp.GRU(64, 128, seed=0)
    >>> narrow = gru_xp.quantize(model)
    >>> x = np.random.default_rng(0).normal(size=(100, 1, 64)).astype("f4")
    >>> bool(abs(narrow(x)[0] - model(x)[0]).max() < 0.01)
    True
    """
    _assert_known(weights, activations)
    is_model = isinstance(model_or_params, GRU)
    model: GRU = model_or_params if is_model else GRU.from_params(model_or_params)  # type: ignore[arg-type, assignment]
    own = model._own
    if own.narrow is not None:
        raise StructureError(f"model_or_params: expected weights that are not quantised yet, got {own.narrow}")
    if own.place.backend.recorded(weights_of(own.params)) == "traced":
        raise NotDifferentiableError(
            "model_or_params: expected weights that are not traced; quantise them before jit, grad or vmap, or train "
            "on fake_quantize(params)"
        )
    whole = as_stored(model)
    stored = narrowed(whole, weights, activations)
    if keep_below is None and x is not None:
        raise StructureError("x: expected keep_below beside it, which alone is measured on x; leave x out")
    if keep_below is not None:
        stored = narrowed(whole, weights, activations, _losing_more(whole, stored, keep_below, x))
    return as_model(stored, own.place) if is_model else prepared_narrow(stored, own.place)


def fake_quantize(params: ParamsLike, weights: Weights = "int8") -> Params:
    """Round weights as `quantize` stores them, in float32, with the gradient that they would have unrounded.

    For training in PyTorch or JAX: a model that runs on `fake_quantize(params)` learns to do well with what `quantize`
    will make of `params`. The gradient passes through the rounding as if it did nothing (the straight-through estimator
    of Bengio et al. 2013, https://arxiv.org/abs/1308.3432). Biases are handed on.

    Args:
        params: as `gru` takes them, in float32, of any library.
        weights: as `quantize` takes it.

    Returns:
        The structure of `params`, with the numbers that `quantize(params, weights)` has, bit for bit.

    Raises:
        DTypeError: a weight is not float32.

    >>> import gru_xp
    >>> params = gru_xp.GRU(3, 4, seed=0).params
    >>> rounded, stored = gru_xp.fake_quantize(params), gru_xp.quantize(params).params
    >>> bool((rounded[0][0].W_hh == stored[0][0].W_hh).all())
    True
    """
    _assert_known(weights)
    layers = structured(params)
    sizes_of(layers)
    names = iter(names_of(layers))

    def rounded(array: Any) -> Any:
        name = next(names)
        backend = owner(array, name)
        array = backend.canonical(array)
        if array.ndim != 2:
            return array
        if backend.dtype_name(array.dtype) != "float32":
            raise DTypeError(f"{name}: expected float32, which quantised weights are rounded from, got {array.dtype}")
        return backend.straight_through(lambda W: _rounded(W, weights, backend)[0], array)

    return map_params(rounded, layers)


def _assert_known(weights: str, activations: str = "float32") -> None:
    for name, value, known in (("weights", weights, WEIGHTS), ("activations", activations, ACTIVATIONS)):
        if not isinstance(value, str) or value not in known:
            raise StructureError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")
    if activations == "int8" and weights != "int8":
        raise StructureError(f"activations: expected 'float32' beside {weights} weights, got 'int8'")


def narrowed(
    stored: StoredGRU, weights: Weights, activations: Activations = "float32", kept: tuple[int, ...] = ()
) -> StoredGRU:
    """A record in host memory with its weights rounded, as float32 numbers, and how they are stored.

    The layers that are `kept` have theirs in float32 as they are.
    """
    numpy = load_backend("numpy")
    xp = numpy.xp
    scales: list[tuple[CellParams, ...]] = []

    def cell(w: CellParams, where: str, keep: bool) -> CellParams:
        rounded, factors = [], []
        for name, W in zip(w._fields, w, strict=True):
            W, scale = None if W is None else xp.astype(W, xp.float32), None
            if W is not None and not bool(xp.all(xp.abs(W) < LARGEST)):
                raise RangeError(f"{where}.{name}: expected finite numbers up to {LARGEST:g}; clip them first")
            if W is not None and W.ndim == 2 and not keep:
                with xp.errstate(over="ignore"):
                    W, scale = _rounded(W, weights, numpy)
                if not bool(xp.all(xp.isfinite(W))):
                    raise RangeError(f"{where}.{name}: expected numbers that {weights} can hold; clip them first")
            rounded.append(W)
            factors.append(scale)
        scales[-1] += (CellParams(factors[0], factors[1]),)
        return CellParams(*rounded)

    params = []
    for index, layer in enumerate(stored.params):
        scales.append(())
        params.append(tuple(cell(w, f"params[{index}][{d}]", index in kept) for d, w in enumerate(layer)))
    narrow = Narrow(weights, activations, tuple(scales) if weights == "int8" else None, kept)
    return replace(stored, params=tuple(params), dtype="float32", narrow=narrow)


def _losing_more(whole: StoredGRU, stored: StoredGRU, keep_below: float, x: Any) -> tuple[int, ...]:
    """The layers that add a larger difference of y than `keep_below`."""
    if isinstance(keep_below, bool) or not isinstance(keep_below, int | float) or not 0 < keep_below < float("inf"):
        raise RangeError(f"keep_below: expected a finite number above 0, or None, got {keep_below!r}")
    lost = [layer.largest for layer in losses(whole, stored, x)]
    kept = tuple(layer for layer, largest in enumerate(lost) if not largest <= keep_below)
    if len(kept) == len(lost):
        raise RangeError(
            f"keep_below: expected at least {min(lost):.2g}, by which y differs in the layer that loses least, got "
            f"{keep_below:g}; nothing would be quantised"
        )
    return kept


def _rounded(W: Any, weights: Weights, backend: Backend) -> tuple[Any, Any]:
    """float32 weights as the numbers that they are stored as, and the scales (M,) of rows; no scales in 16 bits.

    Only operations that every library rounds alike, compiled or not: XLA multiplies by a rounded 1 / b where an array
    is to be divided by rows b (M, 1) or a constant, and PyTorch has 127.0 / b as 127 times a rounded 1 / b.
    """
    xp = backend.xp
    if weights != "int8":
        if not backend.holds(weights):  # NumPy has no bfloat16
            return rounded_to_bfloat16(W), None
        return backend.cast(backend.cast(W, weights), "float32"), None
    if W.shape[1] == 0:
        return W, xp.sum(W, axis=1)
    size = xp.max(xp.abs(W), axis=1)
    size = xp.where(size < LEAST, xp.zeros_like(size), size)
    factor = xp.full_like(size, 127.0) / xp.where(size > 0, size, xp.ones_like(size))
    q = xp.round(W * factor[:, None])
    scale = size * (1.0 / 127.0)
    return xp.where(q == 0, xp.zeros_like(q), q) * scale[:, None], scale
