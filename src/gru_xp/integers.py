"""Products of integers of 8 bits, in the pure array API: what a kernel for int8 activations has to agree with.

A row a is rounded to whole numbers before a product with the integers q of the weights:

    m    = max(|a|), and at least 1 for a state, which stays within [-1, 1] once h0 does
    k    = round half to even of a * (127 / m)        each of the two operations rounded to float32
    a @ W.T = float32(sum of k * q) * (m * (scale / 127))

The sums are exact integers, whoever computes them, and are scaled once.
"""

from __future__ import annotations

from typing import Any

from .narrow import Narrow, integers
from .params import CellParams, Params

__all__ = ["NO_GRADIENT", "IntegerMatrix", "integer_params"]

#: columns whose products float32 sums exactly: 127 * 127 * 1024 < 2 ** 24
EXACT = 1024
#: the least m of a row of x, so that 127 / m is finite
LEAST = 2.0**-100


#: the error where a derivative is asked for
NO_GRADIENT = (
    "params: expected no gradient to be recorded through int8 activations, which have none; detach x and h0, "
    "call gru_inference, or quantize(..., activations='float32')"
)


class IntegerMatrix:
    """W (M, K) that rounds to 8 bits what it is multiplied with, see above; `least` is that of m."""

    def __init__(self, q: Any, scale: Any, least: float, xp: Any):
        self.q, self.scale, self.least, self.xp = q, scale, least, xp

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.q.shape)

    def __getitem__(self, key: tuple[slice, slice]) -> IntegerMatrix:
        """Some of the rows, whole."""
        rows, _ = key
        return IntegerMatrix(self.q[rows, :], self.scale[rows], self.least, self.xp)

    def times(self, a: Any) -> Any:
        """a @ W.T: (..., K) -> (..., M); a row that has anything that is not finite comes out as NaN."""
        xp, K = self.xp, a.shape[-1]
        if 0 in a.shape:
            return a @ self.q.T
        size = xp.max(xp.abs(a), axis=-1, keepdims=True)
        m = xp.where(size < self.least, xp.full_like(size, self.least), size)
        m = xp.where(xp.isfinite(m), m, xp.full_like(m, float("nan")))
        k = xp.round(a * (xp.full_like(m, 127.0) / m))  # PyTorch's 127.0 / m is 127 times the rounded 1 / m
        k = xp.where(k == k, k, xp.zeros_like(k))
        sums = self._sum(k, 0)
        if K > EXACT:
            parts = [sums, *(self._sum(k, first) for first in range(EXACT, K, EXACT))]
            sums = xp.astype(sum(xp.astype(part, xp.int32) for part in parts), a.dtype)
        return sums * (m * (self.scale / 127.0))

    def _sum(self, k: Any, first: int) -> Any:
        last = min(first + EXACT, self.q.shape[1])
        return k[..., first:last] @ self.q[:, first:last].T


def integer_params(params: Params, narrow: Narrow, xp: Any) -> Params:
    """The parameters with matrices that round what they are multiplied with; layers that are kept as they are."""

    def cell(w: CellParams, scales: CellParams | None) -> CellParams:
        if scales is None:
            return w
        W_ih = IntegerMatrix(integers(w.W_ih, scales.W_ih, xp), scales.W_ih, LEAST, xp)
        W_hh = IntegerMatrix(integers(w.W_hh, scales.W_hh, xp), scales.W_hh, 1.0, xp)
        return CellParams(W_ih, W_hh, w.b_ih, w.b_hh)

    return tuple(
        tuple(cell(w, narrow.scales_of(index, d)) for d, w in enumerate(layer)) for index, layer in enumerate(params)
    )
