"""The pointwise part of a step for NumPy, in place: each intermediate reuses the buffer of the one before.

The equations are those of `gru_xp.cell.Gates`, in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.interfaces import Call, Level

from .plain import numbers

__all__ = ["NumpyGates", "kernel"]


class NumpyGates:
    """Fused gates for NumPy: `out=` instead of temporaries."""

    name = "numpy-gates"
    level: Level = "gates"

    def refuses(self, call: Call, /) -> str | None:
        if not call.spec.reset_after:
            return "with reset_after=False the gates have a product in their middle"
        return None if call.spec.standard_gates else "has only sigmoid and tanh, and no clip"

    def inference(self, gi: Any, gh: Any, h: Any, /) -> Any:
        return self.forward(gi, gh, h)[0]

    def forward(self, gi: Any, gh: Any, h: Any, /) -> tuple[Any, ...]:
        H = h.shape[-1]
        half, one = numbers(h.dtype)
        rz = gi[..., : 2 * H] + gh[..., : 2 * H]
        rz *= half
        np.tanh(rz, out=rz)
        rz += one
        rz *= half
        r, z = rz[..., :H], rz[..., H:]
        u = gh[..., 2 * H :]
        n = r * u
        n += gi[..., 2 * H :]
        np.tanh(n, out=n)
        h1 = one - z
        h1 *= n
        h1 += z * h
        return h1, r, z, n, u

    def backward(self, dh1: Any, h: Any, r: Any, z: Any, n: Any, u: Any, /) -> tuple[Any, ...]:
        H = h.shape[-1]
        dgi = np.empty((*h.shape[:-1], 3 * H), h.dtype)
        da_r, da_z, da_n = dgi[..., :H], dgi[..., H : 2 * H], dgi[..., 2 * H :]
        np.multiply(n, n, out=da_n)
        np.subtract(1.0, da_n, out=da_n)
        np.subtract(h, n, out=da_z)
        da_z *= z
        away = np.subtract(1.0, z)
        away *= dh1
        da_n *= away
        da_z *= away
        np.subtract(1.0, r, out=da_r)
        da_r *= r
        da_r *= u
        da_r *= da_n
        dgh = dgi.copy()
        dgh[..., 2 * H :] *= r
        return dgi, dgh, z * dh1


kernel = NumpyGates()
