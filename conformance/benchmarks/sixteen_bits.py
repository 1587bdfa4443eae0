"""Arrays of 16 bits beside float32, at the points of `points.py`: inference and training.

python conformance/benchmarks/sixteen_bits.py [POINT ...] [--libraries numpy torch jax] [--seconds 1] [--json FILE]

NumPy has float16 alone. All dtypes are timed in turns in one process; a figure is the ratio of the medians, 16 bits
divided by float32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from points import POINTS

import gru_xp
from gru_xp.discovery import load
from gru_xp_conformance.timing import TASKS, Size

Run = Callable[[], Any]
DTYPES = {
    "numpy": ("float32", "float16"),
    "torch": ("float32", "bfloat16", "float16"),
    "jax": ("float32", "bfloat16", "float16"),
}


def runs_of(library: str, size: Size, dtype: str) -> dict[str, Run]:
    """A call of inference and one of training: the outputs, and the gradients of everything."""
    T, N, I, H, L, D = size
    backend = load(library)
    model = gru_xp.GRU(I, H, num_layers=L, bidirectional=D == 2, seed=0)
    rng = np.random.default_rng(0)

    def array(a: Any) -> Any:
        return backend.xp.astype(backend.from_dlpack(np.array(a), backend.device("cpu")), backend.dtype(dtype))

    params = gru_xp.map_params(array, model.params)
    x, h0 = array(rng.normal(size=(T, N, I)).astype("f4")), array(np.zeros((L * D, N, H), "f4"))
    dy = array(rng.normal(size=(T, N, D * H)).astype("f4"))
    if library == "torch":
        import torch

        leaves = [x, *(a for layer in params for w in layer for a in w)]

        def inference() -> Any:
            with torch.no_grad():
                return gru_xp.gru(x, params, h0)

        def training() -> Any:
            for a in leaves:
                a.requires_grad_()
                a.grad = None
            y, _ = gru_xp.gru(x, params, h0)
            y.backward(dy)
            for a in leaves:
                a.requires_grad_(False)

    elif library == "jax":
        import jax

        @jax.jit
        def outputs(x: Any, params: Any) -> Any:
            return gru_xp.gru(x, params, h0)[0]

        @jax.jit
        def gradients(x: Any, params: Any) -> Any:
            return jax.vjp(lambda x, params: gru_xp.gru(x, params, h0)[0], x, params)[1](dy)

        def inference() -> Any:
            return jax.block_until_ready(outputs(x, params))

        def training() -> Any:
            return jax.block_until_ready(gradients(x, params))

    else:

        def inference() -> Any:
            return gru_xp.gru_inference(x, params, h0)

        def training() -> Any:
            *_, tape = gru_xp.gru_forward(x, params, h0)
            return gru_xp.gru_backward(tape, dy)

    return dict(zip(TASKS, (inference, training), strict=True))


def measured(runs: dict[str, Run], seconds: float) -> dict[str, float]:
    """The median of each in microseconds, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(5):
            run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Measure, print, and keep if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="*", metavar="POINT", help=", ".join(POINTS))
    parser.add_argument("--libraries", nargs="*", choices=DTYPES, default=["numpy", "torch"])
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for library in options.libraries:
        found[library] = {}
        for point in options.points or POINTS:
            by_dtype = {dtype: runs_of(library, POINTS[point], dtype) for dtype in DTYPES[library]}
            found[library][point] = {}
            for task in TASKS:
                figures = measured({dtype: runs[task] for dtype, runs in by_dtype.items()}, options.seconds)
                found[library][point][task] = figures
                base = figures["float32"]
                ratios = ", ".join(f"{dtype} {us / base:.2f}" for dtype, us in figures.items() if dtype != "float32")
                print(f"{library:6}{point:14}{task:10} float32 {base:9.1f} us; {ratios}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
