"""Narrow weights and 8-bit activations beside float32, with NumPy's arrays on the fused CPU kernels.

python conformance/benchmarks/narrow.py [T,N,I,H ...] [--steps N,I,H ...] [--seconds 2] [--json FILE]

All are timed in turns in one process; a figure is the ratio of the medians, float32 divided by narrow.
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

import gru_xp

KINDS = {
    "int8": ("int8", "float32"),
    "int8, int8 activations": ("int8", "int8"),
    "bfloat16": ("bfloat16", "float32"),
}
SIZES = ("200,1,256,256", "200,1,512,512", "50,1,1024,1024", "50,32,256,256", "50,32,512,512", "50,32,1024,1024")
STEPS = ("1,256,256", "1,512,512", "1,1024,1024")


def runs_of(size: str, step: bool) -> dict[str, Callable[[], Any]]:
    """A call of a sequence (T, N, I, H) or of a step (N, I, H), in float32 and narrow."""
    T, N, I, H = (1, *map(int, size.split(","))) if step else map(int, size.split(","))
    model = gru_xp.GRU(I, H, seed=0)
    x = np.random.default_rng(0).normal(size=(T, N, I)).astype("f4")
    models = {"float32": model} | {name: gru_xp.quantize(model, *kind) for name, kind in KINDS.items()}  # type: ignore[call-overload]
    if not step:
        return {name: lambda m=m: m(x) for name, m in models.items()}  # type: ignore[misc]
    state = np.zeros((1, N, H), "f4")
    return {name: lambda m=m: m.step(x[0], state) for name, m in models.items()}  # type: ignore[misc]


def measured(runs: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """The median of each in microseconds, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(5):
            run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: 1e6 * statistics.median(each) for name, each in times.items()}


def main() -> None:
    """Measure, print, and keep if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", metavar="T,N,I,H")
    parser.add_argument("--steps", nargs="*", metavar="N,I,H")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes, steps = options.sizes, options.steps or []
    if not sizes and options.steps is None:
        sizes, steps = SIZES, STEPS
    found = {}
    for size, step in [*((s, False) for s in sizes), *((s, True) for s in steps)]:
        name = f"step {size}" if step else size
        found[name] = measured(runs_of(size, step), options.seconds)
        base = found[name]["float32"]
        ratios = ", ".join(f"{kind} {base / us:.2f}" for kind, us in found[name].items() if kind != "float32")
        print(f"{name:22} float32 {base:9.1f} us; {ratios}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
