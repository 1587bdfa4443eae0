"""Random numbers, drawn by NumPy for every backend: one seed gives one model everywhere."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Any, TypeAlias

import numpy as np

from .convert import convert
from .discovery import Place, load, owner
from .errors import StructureError
from .params import CellParams, Params, Sizes, map_params

__all__ = ["INITIALIZERS", "dropout_masks", "params"]

Draw: TypeAlias = (
    "Callable[[np.random.Generator, int, int, int, int, int], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]"
)


def params(seed: int | None, sizes: Sizes, initializer: str, place: Place, dtype: str) -> Params:
    """Initial parameters at a place; drawn in float64."""
    library_dtype = place.backend.dtype(dtype)

    def brought(array: Any) -> Any:
        # by way of float32, because no other library may have float64, and NumPy has no bfloat16
        array = array if dtype == "float64" else array.astype("float32")
        return place.backend.xp.astype(convert(array, load("numpy"), place, "initial weights"), library_dtype)

    return map_params(brought, _drawn(seed, sizes, initializer))


def dropout_masks(seed: int, p: float, sizes: Sizes, x: Any) -> Any:
    """What to multiply with so that each number is dropped with probability p: (L-1, T, N, D*H) beside x (T, N, I)."""
    source = owner(x, "x")
    device = source.device_of(x)
    place = Place(source, source.device(None) if device is None else device)
    shape = sizes.L - 1, *x.shape[:-1], sizes.D * sizes.H
    kept = np.random.default_rng(seed).random(shape, dtype=np.float32) >= np.float32(p)
    with source.computing(place.device, recorded=True):
        masks = source.xp.astype(convert(kept, load("numpy"), place, "dropout_masks"), x.dtype)
        return masks * (1.0 / (1.0 - p)) if p < 1.0 else masks


def _drawn(seed: int | None, sizes: Sizes, initializer: str) -> Params:
    if not isinstance(initializer, str) or initializer not in INITIALIZERS:
        raise StructureError(f"initializer: expected one of {', '.join(map(repr, INITIALIZERS))}, got {initializer!r}")
    (I, H, L, D, bias), rng, draw = sizes, np.random.default_rng(seed), INITIALIZERS[initializer]
    layers = []
    for layer in range(L):
        cells = [CellParams(*draw(rng, I if layer == 0 else D * H, H, layer, L, D)) for _ in range(D)]
        layers.append(tuple(w if bias else w._replace(b_ih=None, b_hh=None) for w in cells))
    return tuple(layers)


def _pytorch(rng: np.random.Generator, K: int, H: int, layer: int, L: int, D: int) -> Any:
    """U(-k, k) with k = 1 / sqrt(H) for everything, as torch.nn.GRU."""
    k = 1.0 / sqrt(H)
    return tuple(rng.uniform(-k, k, shape) for shape in ((3 * H, K), (3 * H, H), (3 * H,), (3 * H,)))


def _keras(rng: np.random.Generator, K: int, H: int, layer: int, L: int, D: int) -> Any:
    """Glorot's uniform for W_ih and one orthogonal matrix for W_hh, zero biases, as keras.layers.GRU.

    Keras draws both for the three gates together: https://keras.io/api/layers/initializers.
    """
    limit = sqrt(6.0 / (K + 3 * H))
    q, r = np.linalg.qr(rng.standard_normal((3 * H, H)))
    q = q * np.sign(np.diag(r))
    return rng.uniform(-limit, limit, (3 * H, K)), q, np.zeros(3 * H), np.zeros(3 * H)


def _arraymancer(rng: np.random.Generator, K: int, H: int, layer: int, L: int, D: int) -> Any:
    """Xavier's uniform for W_ih, LeCun's normal for W_hh, zero biases, as Arraymancer's GRULayer.

    Arraymancer draws stacked arrays, (L-1, 3H, K) and (L, 3H, H), whose fans it counts as those of a convolution
    (src/arraymancer/nn/init.nim, compute_fans); so here too.
    """
    fans = K + 3 * H if layer == 0 else (3 * H + L - 1) * K
    limit = sqrt(6.0 / fans)
    W_hh = rng.normal(0.0, sqrt(1.0 / (3 * H * H)), (3 * H, H))
    return rng.uniform(-limit, limit, (3 * H, K)), W_hh, np.zeros(3 * H), np.zeros(3 * H)


INITIALIZERS: dict[str, Draw] = {"pytorch": _pytorch, "keras": _keras, "arraymancer": _arraymancer}
