"""Kernels that read narrow weights wrongly, one mistake each."""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.integers import IntegerMatrix
from gru_xp.narrow import Narrow, integers
from gru_xp.params import CellParams

from .mutants import HonestLayer

__all__ = ["HonestNarrow", "NARROW_MUTANTS"]


class Matrix(IntegerMatrix):
    """As it is defined; a mutant changes `rows` or `sums`, or what is made of weights in `packed`."""

    def times(self, a: Any) -> Any:
        m = np.maximum(np.abs(a).max(axis=-1, keepdims=True), np.float32(self.least))
        return self.sums(self.rows(a * (np.float32(127.0) / m)), self.q.astype("i8")) * (m * (self.scale / 127))

    def rows(self, a: Any) -> Any:
        return np.rint(a).astype("i8")

    def sums(self, k: Any, q: Any) -> Any:
        return (k @ q.T).astype("f4")


class HonestNarrow(HonestLayer):
    """The plain layer as a kernel that reads narrow weights."""

    serves_integers = True
    matrix: type[Matrix] = Matrix
    #: what the cases that are meant to reject it say that they catch
    caught_as = ""

    def pack_narrow(self, w: CellParams, narrow: Narrow, scales: CellParams | None, /) -> CellParams:
        """The weights as `inference` takes them."""
        if scales is None:
            return w
        pairs = [self.packed(integers(W, s, np), s) for W, s in zip(w[:2], scales[:2], strict=True)]
        if narrow.activations == "float32":
            (p, s), (q, t) = pairs
            return CellParams(p * s[:, None], q * t[:, None], w.b_ih, w.b_hh)
        (p, s), (q, t) = pairs
        return CellParams(self.matrix(p, s, 2.0**-100, np), self.matrix(q, t, 1.0, np), w.b_ih, w.b_hh)

    def packed(self, q: Any, scale: Any) -> tuple[Any, Any]:
        return q, scale


class ScaleOfTheWrongRow(HonestNarrow):
    """Each row has the scale of the one before it."""

    caught_as = "the scale of another row"

    def packed(self, q: Any, scale: Any) -> tuple[Any, Any]:
        return q, np.roll(scale, 1)


class StaleScale(HonestNarrow):
    """The scales of the first weights of a size are kept for later ones."""

    caught_as = "a stale scale"

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[Any, Any] = {}

    def packed(self, q: Any, scale: Any) -> tuple[Any, Any]:
        return q, self.kept.setdefault(scale.shape, scale)


class UnsignedWeights(HonestNarrow):
    """The bytes of the weights are taken for unsigned ones."""

    caught_as = "weights read as unsigned numbers"

    def packed(self, q: Any, scale: Any) -> tuple[Any, Any]:
        return np.where(q < 0, q + 256, q), scale


class UnsignedRows(HonestNarrow):
    """The bytes of x and the state are taken for unsigned ones."""

    caught_as = "signed bytes taken for unsigned ones"

    class matrix(Matrix):  # noqa: N801
        def rows(self, a: Any) -> Any:
            return super().rows(a) & 255


class TowardsZero(HonestNarrow):
    """x and the state are rounded towards zero."""

    caught_as = "a rounding towards zero"

    class matrix(Matrix):  # noqa: N801
        def rows(self, a: Any) -> Any:
            return a.astype("i8")


class Saturating(HonestNarrow):
    """Products of pairs are summed in 16 bits, as `pmaddubsw` does, with 128 added to the rows."""

    caught_as = "sums that saturate"

    class matrix(Matrix):  # noqa: N801
        def sums(self, k: Any, q: Any) -> Any:
            pad = ((0, 0), (0, k.shape[-1] % 2))
            products = np.pad(k + 128, [(0, 0)] * (k.ndim - 2) + list(pad))[..., None, :] * np.pad(q, pad)
            pairs = np.clip(products[..., ::2] + products[..., 1::2], -32768, 32767)
            return (pairs.sum(axis=-1) - 128 * q.sum(axis=1)).astype("f4")


class StateAsAnyRow(HonestNarrow):
    """The state is scaled by its own largest number, where its scale is 1."""

    caught_as = "a state scaled by its own largest number"

    class matrix(Matrix):  # noqa: N801
        def times(self, a: Any) -> Any:
            self.least = 2.0**-100
            return super().times(a)


class ScaleOfAnotherRowOfX(HonestNarrow):
    """The sums of each row of x and the state are scaled as those of the row before it."""

    caught_as = "the scale of another row of x"

    class matrix(Matrix):  # noqa: N801
        def times(self, a: Any) -> Any:
            m = np.maximum(np.abs(a).max(axis=-1, keepdims=True), np.float32(self.least))
            return super().times(a) * (np.roll(m, 1, axis=-2) / m)


class ScaleOfTheWholeBatch(HonestNarrow):
    """x and the state are scaled by the largest number of all rows."""

    caught_as = "one scale for all rows"

    class matrix(Matrix):  # noqa: N801
        def times(self, a: Any) -> Any:
            least, self.least = self.least, max(self.least, float(np.abs(a).max(initial=0.0)))
            try:
                return super().times(a)
            finally:
                self.least = least


NARROW_MUTANTS = (
    ScaleOfTheWrongRow,
    StaleScale,
    UnsignedWeights,
    UnsignedRows,
    TowardsZero,
    Saturating,
    StateAsAnyRow,
    ScaleOfAnotherRowOfX,
    ScaleOfTheWholeBatch,
)
