"""Arraymancer's stacked arrays (https://github.com/mratsim/Arraymancer, nn_primitives/nnp_gru.nim), both ways."""

from __future__ import annotations

from typing import Any, NamedTuple

from .checks import assert_shape, sizes_of, structured
from .discovery import owner
from .errors import ShapeError, StructureError
from .params import CellParams, Params

__all__ = ["ArraymancerParams", "from_arraymancer", "to_arraymancer"]


class ArraymancerParams(NamedTuple):
    """The weights of a stack in one direction, as Arraymancer's `gru_forward` takes them."""

    W3s0: Any  # (3H, I)
    W3sN: Any  # (L-1, 3H, H)
    U3s: Any  # (L, 3H, H)
    bW3s: Any  # (L, 1, 3H)
    bU3s: Any  # (L, 1, 3H)


def from_arraymancer(W3s0: Any, W3sN: Any, U3s: Any, bW3s: Any, bU3s: Any) -> Params:
    """Arraymancer's arrays -> params, bit for bit. With one layer W3sN is (0, 3H, H) or None.

    >>> import numpy as np
    >>> from gru_xp.arraymancer import from_arraymancer
    >>> z = np.zeros
    >>> params = from_arraymancer(z((12, 3)), z((1, 12, 4)), z((2, 12, 4)), z((2, 1, 12)), z((2, 1, 12)))
    >>> len(params), params[1][0].W_ih.shape
    (2, (12, 4))
    """
    owner(U3s, "U3s")
    if U3s.ndim != 3 or U3s.shape[1] != 3 * U3s.shape[2] or U3s.shape[0] == 0:
        raise ShapeError(f"U3s: expected (L, 3H, H) with L of at least 1, got {tuple(U3s.shape)}")
    L, H = U3s.shape[0], U3s.shape[2]
    for name, array in (("bW3s", bW3s), ("bU3s", bU3s)):
        assert_shape(array, name, "(L, 1, 3H)", (L, 1, 3 * H), "L and H come from U3s")
    if W3sN is not None or L > 1:
        assert_shape(W3sN, "W3sN", "(L-1, 3H, H)", (L - 1, 3 * H, H), "L and H come from U3s")
    params = tuple(
        (
            CellParams(
                W3s0 if layer == 0 else W3sN[layer - 1, ...], U3s[layer, ...], bW3s[layer, 0, ...], bU3s[layer, 0, ...]
            ),
        )
        for layer in range(L)
    )
    sizes_of(params)
    return params


def to_arraymancer(params: Params) -> ArraymancerParams:
    """Params of one direction, with biases -> Arraymancer's arrays, bit for bit."""
    layers = structured(params)
    sizes = sizes_of(layers)
    if sizes.D != 1:
        raise StructureError("params: expected one direction, because Arraymancer's GRU has no other, got two")
    if not sizes.bias:
        raise StructureError("params: expected biases, because Arraymancer's GRU always has them, got None; pass zeros")
    cells = [directions[0] for directions in layers]
    xp = owner(cells[0].W_ih, "params").xp
    return ArraymancerParams(
        cells[0].W_ih,
        xp.stack([w.W_ih for w in cells[1:]]) if sizes.L > 1 else cells[0].W_hh[None, ...][:0, ...],
        xp.stack([w.W_hh for w in cells]),
        xp.stack([w.b_ih[None, :] for w in cells]),
        xp.stack([w.b_hh[None, :] for w in cells]),
    )
