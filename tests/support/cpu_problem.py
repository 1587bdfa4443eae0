"""A call of the fused CPU kernels, and what compares its results."""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.interfaces import Options
from gru_xp.params import CellParams
from gru_xp_cpu import CpuLayer

LAYER = CpuLayer()
OPTIONS = Options()


def problem(T: int = 30, N: int = 4, I: int = 50, H: int = 96, seed: int = 0) -> tuple[Any, Any, CellParams]:
    rng = np.random.default_rng(seed)
    shapes = ((T, N, I), (N, H), (3 * H, I), (3 * H, H), (3 * H,), (3 * H,))
    x, h0, *w = (0.2 * rng.standard_normal(shape, np.float32) for shape in shapes)
    return x, h0, CellParams(*w)


def everything(x: Any, h0: Any, w: CellParams) -> list[Any]:
    """All results of a call forth and back."""
    y, h_n, tape = LAYER.forward(x, h0, w, OPTIONS._replace(save="all"))
    dx, dh0, dw = LAYER.backward(tape, y, h_n)
    return [y, h_n, dx, dh0, *dw]


def same(a: list[Any], b: list[Any]) -> bool:
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))
