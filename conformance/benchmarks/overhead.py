"""What gru_xp costs beside the arithmetic: its import, and what a call costs for one layer and one step.

    python conformance/benchmarks/overhead.py [--libraries numpy,torch,jax] [--rounds 100] [--processes 3]
        [--against PYTHON]  compares with the version that the environment of that interpreter has installed

Each library has a process of its own, `--processes` of them one after the other, since where memory lies makes a
difference. All calls, and both versions, are timed in turns of a few milliseconds. Printed are the least time of a
turn's calls, the median of all turns, and for two versions the ratios of both. `stack` is the arithmetic alone, what
the public functions end in; `off` is GRU_XP_KERNELS=off, the path without kernels.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

Calls = dict[str, Callable[[], Any]]
I, H = 32, 64
SECONDS = 0.003  # of calls in a turn


# ---- the calls ------------------------------------------------------------------------------------------------------


def arrays() -> tuple[np.ndarray[Any, Any], ...]:
    """x (1, 1, I), h0 (1, 1, H) and the weights in float32."""
    rng = np.random.default_rng(0)
    shapes = (1, 1, I), (1, 1, H), (3 * H, I), (3 * H, H), (3 * H,), (3 * H,)
    return tuple(rng.normal(size=shape).astype("f4") for shape in shapes)


def numpy_calls() -> Calls:
    """The public functions with NumPy's arrays."""
    import gru_xp

    x, h0, *weights = arrays()
    w = gru_xp.CellParams(*weights)
    params, x_t, h, dy = ((w,),), x[0], h0[0], np.ones_like(h0)
    prepared, model, tape = gru_xp.prepare(params), gru_xp.GRU.from_params(params), gru_xp.gru_forward(x, params, h0)[2]
    return {
        "gru_inference": lambda: gru_xp.gru_inference(x, params, h0),
        "gru_inference, prepared": lambda: gru_xp.gru_inference(x, prepared, h0),
        "model(x)": lambda: model(x),
        "model.step": lambda: model.step(x_t, h0),
        "gru_forward": lambda: gru_xp.gru_forward(x, params, h0),
        "gru_backward": lambda: gru_xp.gru_backward(tape, dy),
        "gru_cell_inference": lambda: gru_xp.gru_cell_inference(x_t, h, w),
    }


def stack_calls() -> Calls:
    """The arithmetic that `numpy_calls` end in."""
    import gru_xp
    from gru_xp import discovery, kernels
    from gru_xp.interfaces import Options

    x, h0, *weights = arrays()
    params, dy = ((gru_xp.CellParams(*weights),),), np.ones_like(h0)
    kernel = None if os.environ["GRU_XP_KERNELS"] == "off" else kernels.kernels_of("numpy")[0]
    stack, options, training = discovery.load("numpy").stack(kernel), Options(), Options(save="all")
    packed, tapes = gru_xp.prepare(params).packed_for(kernel), stack.forward(x, h0, params, training, None)[2]
    return {
        "stack.inference": lambda: stack.inference(x, h0, params, options, None),
        "stack.inference, prepared": lambda: stack.inference(x, h0, packed, options, None),
        "stack.forward": lambda: stack.forward(x, h0, params, training, None),
        "stack.backward": lambda: stack.backward(tapes, dy, None, None),
    }


def torch_calls() -> Calls:
    """The public functions with tensors, and the modules."""
    import torch

    import gru_xp
    from gru_xp_torch import GRU, GRUCell

    x, h0, *weights = map(torch.from_numpy, arrays())
    w = gru_xp.CellParams(*weights)
    params, dy = ((w,),), torch.ones_like(h0)
    leaves = gru_xp.CellParams(*(a.clone().requires_grad_() for a in weights))
    module, cell, tape = GRU(I, H), GRUCell(I, H), gru_xp.gru_forward(x, params, h0)[2]
    graph = module(x, h0)[0]
    parameters = list(module.parameters())

    def inference() -> None:
        with torch.no_grad():
            module(x, h0)

    def backward() -> None:
        torch.autograd.grad(graph, parameters, dy, retain_graph=True)

    def training() -> None:
        torch.autograd.grad(module(x, h0)[0], parameters, dy)

    return {
        "gru_inference": lambda: gru_xp.gru_inference(x, params, h0),
        "gru, recorded": lambda: gru_xp.gru(x, ((leaves,),), h0),
        "gru_forward": lambda: gru_xp.gru_forward(x, params, h0),
        "gru_backward": lambda: gru_xp.gru_backward(tape, dy),
        "module, inference": inference,
        "module, recorded": lambda: module(x, h0),
        "module, its gradients": backward,
        "module, training step": training,
        "module of a cell": lambda: cell(x[0], h0[0]),
    }


def jax_calls() -> Calls:
    """The public functions with JAX's arrays, as they are and compiled."""
    import jax
    import jax.numpy as jnp

    import gru_xp

    x, h0, *weights = map(jnp.asarray, arrays())
    params = ((gru_xp.CellParams(*weights),),)
    compiled = jax.jit(gru_xp.gru)
    gradient = jax.jit(jax.grad(lambda params: gru_xp.gru(x, params, h0)[0].sum()))
    return {
        "gru_inference": lambda: jax.block_until_ready(gru_xp.gru_inference(x, params, h0)),
        "gru": lambda: jax.block_until_ready(gru_xp.gru(x, params, h0)),
        "jit(gru)": lambda: jax.block_until_ready(compiled(x, params, h0)),
        "jit(grad(gru))": lambda: jax.block_until_ready(gradient(params)),
    }


LIBRARIES = {"numpy": (numpy_calls, "auto"), "off": (numpy_calls, "off"), "torch": (torch_calls, "auto")}
LIBRARIES |= {"jax": (jax_calls, "auto")}


# ---- one version in a process ---------------------------------------------------------------------------------------


class Turn(NamedTuple):
    """Microseconds of the calls of one turn."""

    least: float
    median: float


def serve(calls: Calls) -> None:
    """Time the call that each line of stdin names, for one turn; the names first."""
    print(json.dumps(list(calls)), flush=True)
    for line in sys.stdin:
        run, times = calls[line.strip()], []
        end = time.perf_counter() + SECONDS
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        print(json.dumps([1e6 * min(times), 1e6 * statistics.median(times)]), flush=True)


class Process:
    """One version's process, from outside."""

    def __init__(self, python: str, library: str, *, stack: bool):
        command = [python, __file__, "--serve", library, *(["--stack"] if stack else [])]
        environment = {**os.environ, "GRU_XP_KERNELS": LIBRARIES[library][1]}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.names: list[str] = json.loads(self._answer())

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.communicate()  # it ends with its input

    def turn(self, name: str) -> Turn:
        """Have a call timed."""
        assert self._process.stdin is not None
        print(name, file=self._process.stdin, flush=True)
        return Turn(*json.loads(self._answer()))

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline() or '"it ended"'


# ---- all of it ------------------------------------------------------------------------------------------------------


def import_ms(python: str) -> float:
    """The import in a fresh interpreter, median of 15."""
    code = "import time; t = time.perf_counter(); import gru_xp; print(time.perf_counter() - t)"
    return 1e3 * statistics.median(float(subprocess.check_output([python, "-c", code])) for _ in range(15))


def measure(library: str, pythons: list[str], rounds: int, processes: int) -> dict[str, list[list[Turn]]]:
    """The turns of each call in each version."""
    found: dict[str, list[list[Turn]]] = {}
    stack = len(pythons) == 1 and LIBRARIES[library][0] is numpy_calls  # another version may name it differently
    for _ in range(processes):
        with ExitStack() as running:
            versions = [running.enter_context(Process(python, library, stack=stack)) for python in pythons]
            for _ in range(rounds):
                for name in versions[0].names:
                    turns = found.setdefault(name, [[] for _ in pythons])
                    for kept, version in zip(turns, versions, strict=True):
                        kept.append(version.turn(name))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--libraries", default=",".join(LIBRARIES))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--against")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--stack", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve({**LIBRARIES[options.serve][0](), **(stack_calls() if options.stack else {})})
        return
    pythons = [sys.executable, *([options.against] if options.against else [])]
    print("import gru_xp:", *(f"{import_ms(python):.1f} ms" for python in pythons))
    both = ", here and there" if options.against else ""
    print(f"\nT = N = 1, I = {I}, H = {H}, float32; microseconds, the least and the median{both}")
    for library in options.libraries.split(","):
        for name, turns in measure(library, pythons, options.rounds, options.processes).items():
            least = [min(turn.least for turn in kept) for kept in turns]
            median = [statistics.median(turn.median for turn in kept) for kept in turns]
            line = f"{library:6} {name:26}" + "".join(f"{us:8.2f}" for us in (*least, *median))
            print(
                line + (f"   ratios {least[0] / least[1]:.3f} {median[0] / median[1]:.3f}" if options.against else "")
            )


if __name__ == "__main__":
    main()
