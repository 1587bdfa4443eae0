"""Helpers for parameters and their gradients: tuples of layers of directions of `CellParams`."""

from __future__ import annotations

from functools import reduce
from operator import add as plus
from typing import Any, TypeVar

from .checks import canonical, structured
from .convert import convert
from .discovery import Place, owner
from .errors import StructureError
from .params import CellParams, GRUGrads, Params, ParamsLike, map_params, names_of, weights_of

__all__ = ["add", "map_params", "to", "weights"]

Summand = TypeVar("Summand", Params, GRUGrads, CellParams)


def weights(params: ParamsLike) -> list[Any]:
    """List all arrays of the parameters, in order: layers, directions, W_ih, W_hh, b_ih, b_hh.

    >>> import gru_xp
    >>> [w.shape for w in gru_xp.weights(gru_xp.GRU(3, 4).params)]
    [(12, 3), (12, 4), (12,), (12,)]
    """
    return weights_of(structured(params))


def add(first: Summand, *others: Summand) -> Summand:
    """Add gradients, array by array: `+` would join the tuples.

    Args:
        first: `GRUGrads`, its `.params`, or a single `CellParams`.
        others: gradients of the same structure.

    Raises:
        StructureError: the structures differ.

    >>> import numpy as np, gru_xp
    >>> dw = ((gru_xp.CellParams(np.ones((12, 3)), np.ones((12, 4))),),)
    >>> float(gru_xp.add(dw, dw, dw)[0][0].W_ih[0, 0])
    3.0
    """
    return reduce(_sum, others, first)


def _sum(a: Any, b: Any) -> Any:
    if isinstance(a, tuple):
        if not isinstance(b, tuple) or len(a) != len(b):
            raise StructureError(f"gradients: expected the structure of the first ones, got {type(b).__name__}")
        parts = [_sum(*pair) for pair in zip(a, b, strict=True)]
        return type(a)(*parts) if hasattr(a, "_fields") else tuple(parts)
    if (a is None) != (b is None):
        raise StructureError("gradients: expected biases in all of them or in none, got both")
    return None if a is None else plus(a, b)


def to(params: ParamsLike, *, like: Any) -> Params:
    """Bring parameters to the library and device of an array, by DLPack; they keep their dtype.

    The result may share memory with `params` where both libraries allow that.

    >>> import numpy as np, gru_xp
    >>> params = gru_xp.GRU(3, 4).params
    >>> gru_xp.to(params, like=np.zeros(1))[0][0].W_ih.shape
    (12, 3)
    """
    layers = structured(params)
    target = owner(like, "like")
    place = Place(target, target.device_of(like))
    names = iter(names_of(layers))

    def brought(array: Any) -> Any:
        name = next(names)
        source = owner(array, name)  # which may be another one for each
        return convert(canonical(array, name, source), source, place, name)

    return map_params(brought, layers)
