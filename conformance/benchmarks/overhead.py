"""What gru_xp costs beside the arithmetic: its import, and a call's dispatch and checks for one layer with NumPy.

python conformance/benchmarks/overhead.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

import gru_xp
from gru_xp import dispatch, kernels

TURNS = 20_000


def import_ms() -> float:
    """The import in a fresh interpreter, median of 15."""
    code = "import time; t = time.perf_counter(); import gru_xp; print(time.perf_counter() - t)"
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(15)]
    return 1e3 * statistics.median(times)


def call_us() -> tuple[float, float, float]:
    """Medians of `gru_inference`, of it with prepared parameters, and of the plain stack alone, turn by turn."""
    os.environ["GRU_XP_KERNELS"] = "off"
    rng = np.random.default_rng(0)
    I, H = 32, 64
    w = gru_xp.CellParams(
        *(rng.normal(size=shape).astype("f4") for shape in ((3 * H, I), (3 * H, H), (3 * H,), (3 * H,)))
    )
    params, x, h0 = ((w,),), rng.normal(size=(1, 1, I)).astype("f4"), np.zeros((1, 1, H), "f4")
    prepared = gru_xp.prepare(params)
    stack = kernels.stack_for(dispatch.load("numpy"), None)
    options: dict[str, Any] = {"spec": gru_xp.GRUSpec(), "valid": None, "resets": None, "dropout_masks": None}
    runs = (
        lambda: gru_xp.gru_inference(x, params, h0),
        lambda: gru_xp.gru_inference(x, prepared, h0),
        lambda: stack.inference(x, h0, params, **options),
    )
    times: tuple[list[float], ...] = ([], [], [])
    for _ in range(TURNS):
        for run, kept in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            kept.append(time.perf_counter() - start)
    whole, whole_prepared, arithmetic = (1e6 * statistics.median(kept) for kept in times)
    return whole, whole_prepared, arithmetic


if __name__ == "__main__":
    print(f"import gru_xp: {import_ms():.1f} ms")
    whole, whole_prepared, arithmetic = call_us()
    rest = whole - arithmetic
    print(f"one step, I = 32, H = 64: {whole:.1f} us, of which arithmetic {arithmetic:.1f}, the rest {rest:.1f}")
    print(f"with prepared parameters: {whole_prepared:.1f} us, the rest {whole_prepared - arithmetic:.1f}")
