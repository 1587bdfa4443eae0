"""Where NumPy does single things of the plain path faster in another way."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from gru_xp.cell import Gates
from gru_xp.layer import Layer

__all__ = ["NumpyLayer", "PlainGates", "numbers"]


@cache
def numbers(dtype: Any) -> tuple[Any, Any]:
    """0.5 and 1 as arrays, which NumPy takes in half the time of Python's numbers."""
    return np.asarray(0.5, dtype), np.asarray(1.0, dtype)


class PlainGates(Gates):
    """The plain gates, with their constants as arrays."""

    def numbers(self, dtype: Any) -> tuple[Any, Any]:
        return numbers(dtype)


class NumpyLayer(Layer):
    """The plain layer, with W_hh as BLAS likes it."""

    def right_operand(self, W: Any, T: int, N: int) -> Any:
        # Seen with OpenBLAS 0.3.30: for 2 to 64 rows a product with a transposed right operand takes 1.2 to 4 times as
        # long; transposing it once costs as much as 5 to 50 such products save.
        return np.asfortranarray(W) if N > 1 and T >= 32 else W
