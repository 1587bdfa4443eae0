"""Arrays of 16 bits beside float32, at the points of `points.py`: inference and training.

python conformance/benchmarks/sixteen_bits.py [POINT ...] [--libraries numpy torch jax] [--seconds 1] [--keep]

NumPy has float16 alone. All dtypes are timed in turns in one process; a figure is the median of the ratios in each
turn, 16 bits divided by float32.
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
from processors import measured_on, result_file, write_result

import gru_xp
from gru_xp.discovery import load
from gru_xp_conformance.report import put_between
from gru_xp_conformance.timing import TASKS, Size

Run = Callable[[], Any]
DTYPES = {
    "numpy": ("float32", "float16"),
    "torch": ("float32", "bfloat16", "float16"),
    "jax": ("float32", "bfloat16", "float16"),
}
WORDS = {"numpy": "NumPy", "torch": "PyTorch", "jax": "JAX"}
PAGE = Path(__file__).parents[2] / "docs" / "quantize.md"


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
    """The median of each in microseconds, and of the others the median of their ratios to float32 in the same turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(5):
            run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["float32"]) < 5:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    ratios = {
        f"{name} / float32": statistics.median(a / b for a, b in zip(each, times["float32"], strict=True))
        for name, each in times.items()
        if name != "float32"
    }
    microseconds = {name: 1e6 * statistics.median(each) for name, each in times.items()}
    return {name: float(f"{figure:.4g}") for name, figure in {**microseconds, **ratios}.items()}


def table(libraries: dict[str, Any]) -> str:
    """The ratios, in inference and in training."""
    kinds = [(library, dtype) for library, dtypes in DTYPES.items() for dtype in dtypes[1:]]
    heads = [f"{WORDS[library]}, {dtype}" for library, dtype in kinds]
    rows = ["| T, N, I, H, layers, directions | " + " | ".join(heads) + " |", "|---|" + "--:|" * len(kinds)]
    for point, size in POINTS.items():
        found = [[libraries[lib][point][task][f"{dtype} / float32"] for task in TASKS] for lib, dtype in kinds]
        cells = [", ".join(f"{ratio:.2f}" for ratio in ratios) for ratios in found]
        rows.append(f"| {', '.join(map(str, size))} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", nargs="*", metavar="POINT", help=", ".join(POINTS))
    parser.add_argument("--libraries", nargs="*", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--seconds", type=float, default=1.0, help="for each point and task")
    parser.add_argument("--keep", action="store_true", help="add to the file of this kind of processor and to the docs")
    options = parser.parse_args()
    kept = result_file("sixteen_bits")
    result = json.loads(kept.read_text()) if kept.exists() else {"about": {}, "libraries": {}}
    for library in options.libraries:
        for point in options.points or POINTS:
            by_dtype = {dtype: runs_of(library, POINTS[point], dtype) for dtype in DTYPES[library]}
            found = {}
            for task in TASKS:
                runs = {dtype: of_tasks[task] for dtype, of_tasks in by_dtype.items()}
                found[task] = measured(runs, options.seconds)
                print(f"{library:6}{point:14}{task:10}{found[task]}", flush=True)
            result["libraries"].setdefault(library, {})[point] = found
    if options.keep:
        result["about"] = measured_on()
        write_result(kept, result)
        if all(set(result["libraries"].get(library, ())) == set(POINTS) for library in DTYPES):
            put_between(PAGE, "sixteen-bits", table(result["libraries"]))


if __name__ == "__main__":
    main()
