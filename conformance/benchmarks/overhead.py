"""What gru_xp costs beside the arithmetic: its import, and a call's dispatch and checks for one layer with NumPy.

python conformance/benchmarks/overhead.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import gru_xp
from gru_xp import discovery, kernels
from gru_xp.interfaces import Options

TURNS = 5_000


def import_ms() -> float:
    """The import in a fresh interpreter, median of 15."""
    code = "import time; t = time.perf_counter(); import gru_xp; print(time.perf_counter() - t)"
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(15)]
    return 1e3 * statistics.median(times)


def step_us(*, policy: str) -> dict[str, float]:
    """Medians of calls for one step, turn by turn, with the value `policy` of GRU_XP_KERNELS."""
    os.environ["GRU_XP_KERNELS"] = policy
    rng = np.random.default_rng(0)
    I, H = 32, 64
    w = gru_xp.CellParams(
        *(rng.normal(size=shape).astype("f4") for shape in ((3 * H, I), (3 * H, H), (3 * H,), (3 * H,)))
    )
    params, x, h0 = ((w,),), rng.normal(size=(1, 1, I)).astype("f4"), np.zeros((1, 1, H), "f4")
    prepared, model, x_t, dy = gru_xp.prepare(params), gru_xp.GRU.from_params(params), x[0], np.ones((1, 1, H), "f4")
    backend = discovery.load("numpy")
    kernel = None if policy == "off" else kernels.kernels_of("numpy")[0]
    stack = backend.stack(kernel)
    options = Options()
    packed = prepared.packed_for(kernel)

    def arithmetic_of_training() -> None:
        _, _, layers = stack.forward(x, h0, params, options._replace(save="all"), None)
        stack.backward(layers, dy, None, None)

    runs: dict[str, Callable[[], Any]] = {
        "stack.inference": lambda: stack.inference(x, h0, params, options, None),
        "gru_inference": lambda: gru_xp.gru_inference(x, params, h0),
        "stack.inference, prepared": lambda: stack.inference(x, h0, packed, options, None),
        "gru_inference, prepared": lambda: gru_xp.gru_inference(x, prepared, h0),
        "model(x)": lambda: model(x),
        "model.step": lambda: model.step(x_t, h0),
        "stack.forward + stack.backward": arithmetic_of_training,
        "gru_forward + gru_backward": lambda: gru_xp.gru_backward(gru_xp.gru_forward(x, params, h0)[2], dy),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TURNS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(kept) for name, kept in times.items()}


if __name__ == "__main__":
    print(f"import gru_xp: {import_ms():.1f} ms")
    for policy in ("off", "auto"):
        print(f"one step, I = 32, H = 64, GRU_XP_KERNELS={policy}; `stack` is what stands behind the front doors:")
        for name, us in step_us(policy=policy).items():
            print(f"  {name:32} {us:6.1f} us")
