"""How late a step of a stream can be: the median, the 99.9th percentile and the largest of a million, in microseconds.

    python conformance/benchmarks/tail.py [--only gru_xp,onnxruntime,torch,nothing,rtneural] [--steps 1000000]
        [--rtneural FOLDER]     a checkout of https://github.com/jatinchowdhury18/RTNeural with its modules, to compile
        [--keep]                adds to the result file of this kind of processor, conformance/results/tail/KIND.json,
                                and writes the table of docs/streaming.md from it

One row, float32, one thread, no garbage collection, bound to one core; each engine runs in a separate process, which
says what memory it has after a thousand steps and after all of them. Every engine has the same weights, and its state
after the last step has to be that of the float64 loop.

    gru_xp        GRU.step(x, state, out=(y, state))
    onnxruntime   the exported step, its inputs and outputs bound once to two states in turn
    torch         torch.nn.GRUCell in inference_mode
    rtneural      C++, with sizes known to the compiler, timed in C++
    nothing       a loop in Python as long as our step: how late the system and the machine alone make a thread
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from processors import measured_on, result_file, write_result

import gru_xp
from gru_xp_conformance.report import put_between

SIZES = {"amplifier": (1, 40), "denoiser": (90, 96)}  # I, H
PAGE = Path(__file__).parents[2] / "docs" / "streaming.md"
WORDS = {
    "gru_xp": "`GRU.step(out=)`",
    "onnxruntime": "onnxruntime",
    "torch": "`torch.nn.GRUCell`",
    "rtneural": "RTNeural (C++)",
    "nothing": "an empty loop, about as long",
}
Steps = tuple[Callable[[], Any], Callable[[], Any]]  # a step, the state (1, H) or None


def model_of(I: int, H: int) -> tuple[gru_xp.GRU, Any]:
    """The model and x (1, I)."""
    return gru_xp.GRU(I, H, seed=0), np.full((1, I), 0.5, np.float32)


# ---- the engines ----------------------------------------------------------------------------------------------------


def ours(model: gru_xp.GRU, x: Any) -> Steps:
    y, state = np.zeros((1, model.hidden_size), np.float32), model.initial_state(1)
    step, out = model.step, (y, state)
    return lambda: step(x, state, out=out), lambda: state[0]


def on_onnxruntime(model: gru_xp.GRU, x: Any) -> Steps:
    import onnxruntime

    with TemporaryDirectory() as folder:
        path = Path(folder) / "step.onnx"
        model.save(path, inputs="x,h0")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options)
    states = [np.zeros((1, 1, model.hidden_size), np.float32) for _ in range(2)]
    y, x, bindings = np.zeros_like(states[0]), x[None].copy(), []
    for before, after in (states, states[::-1]):
        binding = session.io_binding()
        for name, a in (("x", x), ("h0", before)):
            binding.bind_input(name, "cpu", 0, np.float32, a.shape, a.ctypes.data)
        for name, a in (("y", y), ("h_n", after)):
            binding.bind_output(name, "cpu", 0, np.float32, a.shape, a.ctypes.data)
        bindings.append(binding)
    done, run = [0], session.run_with_iobinding

    def step() -> None:
        run(bindings[done[0] & 1])
        done[0] += 1

    return step, lambda x=x: states[done[0] & 1][0]  # x lives as long as what is bound to it


def on_torch(model: gru_xp.GRU, x: Any) -> Steps:
    import torch

    torch.set_num_threads(1)
    cell, ((w,),) = torch.nn.GRUCell(model.input_size, model.hidden_size), model.params
    cell.load_state_dict(
        {name: torch.tensor(a) for name, a in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), w, strict=True)}
    )
    tensor, held = torch.from_numpy(x), [torch.zeros(1, model.hidden_size)]

    @torch.inference_mode()
    def step() -> None:
        held[0] = cell(tensor, held[0])

    return step, lambda: held[0].numpy()


def nothing(model: gru_xp.GRU, x: Any) -> Steps:
    step, _ = ours(model, x)
    turns = 1000

    def loop() -> None:
        for _ in range(turns):
            pass

    def median(run: Callable[[], Any]) -> float:
        return statistics.median(timeit.repeat(run, number=1, repeat=5000))

    turns = round(turns * median(step) / median(loop))
    return loop, lambda: None


ENGINES = {"gru_xp": ours, "onnxruntime": on_onnxruntime, "torch": on_torch, "nothing": nothing}


def in_python(name: str, size: tuple[int, int], steps: int) -> dict[str, Any]:
    """Time an engine of this process."""
    model, x = model_of(*size)
    step, state = ENGINES[name](model, x)
    times, clock = np.full(steps, -1), time.perf_counter_ns  # all of its pages are there before the first step
    for _ in range(1000):
        step()
    gc.collect()
    gc.disable()
    before = resident()
    for index in range(steps):
        start = clock()
        step()
        times[index] = clock() - start
    memory = {"resident": [before, resident()]}
    found, last = {**summary(times), **memory}, state()
    return found if last is None else {**found, "error": error_of(model, x, last, steps + 1000)}


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def in_cpp(size: tuple[int, int], steps: int, checkout: Path) -> dict[str, Any]:
    """Compile RTNeural's, run it, read what it timed."""
    model, x = model_of(*size)
    with TemporaryDirectory() as folder:
        program, weights, times = (Path(folder) / name for name in ("steps", "model.json", "times.bin"))
        model.save(weights, format="rtneural")
        source = Path(__file__).with_name("tail_rtneural.cpp")
        flags = ["-std=c++17", "-O3", "-march=native", "-DNDEBUG", "-DRTNEURAL_USE_EIGEN=1"]
        flags += [f"-DINPUT={size[0]}", f"-DHIDDEN={size[1]}", "-DRTNEURAL_NAMESPACE=RTNeural"]
        flags += ["-DRTNEURAL_DEFAULT_ALIGNMENT=32", "-DEIGEN_MAX_ALIGN_BYTES=32"]
        folders = [f"-I{checkout / part}" for part in (".", "modules/Eigen", "modules/json")]
        subprocess.run(["g++", *flags, *folders, str(source), "-o", str(program)], check=True)
        done = subprocess.run([program, weights, str(steps), times], capture_output=True, text=True, check=True)
        state = np.array([done.stdout.split()], np.float64)
        return {**summary(np.fromfile(times, np.int64)), "error": error_of(model, x, state, steps)}


# ---- what came of it ------------------------------------------------------------------------------------------------


def summary(times: Any) -> dict[str, float]:
    """Microseconds."""
    median, rare, late = np.quantile(times, [0.5, 0.99, 0.999]) / 1e3
    figures = {"median": median, "p99": rare, "p99.9": late, "max": times.max() / 1e3}
    return {"steps": len(times), **{name: round(float(a), 2) for name, a in figures.items()}}


def error_of(model: gru_xp.GRU, x: Any, state: Any, steps: int) -> float:
    """How far a state (1, H) is from that of a loop in float64, which has come to rest by a few thousand steps."""
    ((w,),) = model.params
    W_ih, W_hh, b_ih, b_hh = (np.asarray(a, np.float64) for a in w)
    h, gi = np.zeros((1, model.hidden_size)), x @ W_ih.T + b_ih
    for _ in range(min(steps, 5000)):
        gh = h @ W_hh.T + b_hh
        (i_r, i_z, i_n), (h_r, h_z, h_n) = np.split(gi, 3, axis=1), np.split(gh, 3, axis=1)
        r, z = 1 / (1 + np.exp(-i_r - h_r)), 1 / (1 + np.exp(-i_z - h_z))
        h = (1 - z) * np.tanh(i_n + r * h_n) + z * h
    error = float(np.abs(state - h).max())
    if error > 1e-4:
        raise SystemExit(f"wrong by {error}")
    return float(f"{error:.1e}")


def table(engines: dict[str, Any]) -> str:
    """The rows of docs/streaming.md."""
    rows = ["| microseconds | " + " | ".join(f"I = {I}, H = {H}" for I, H in SIZES.values()) + " |", "|---|--:|--:|"]
    for name in (name for name in WORDS if name in engines):
        sizes = engines[name]
        cells = [", ".join(f"{sizes[size][of]:,.1f}" for of in ("median", "p99.9", "max")) for size in SIZES]
        rows.append(f"| {WORDS[name]} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ENGINES))
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--rtneural", type=Path)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if options.engine:
        name, size = options.engine.split(":")
        print(json.dumps(in_python(name, SIZES[size], options.steps)))
        return
    kept = result_file("tail")
    result = json.loads(kept.read_text()) if kept.exists() else {"about": {}, "engines": {}}
    for name in options.only.split(","):
        for size in SIZES:
            if name == "rtneural":
                found = in_cpp(SIZES[size], options.steps, options.rtneural)
            else:
                command = [sys.executable, __file__, "--engine", f"{name}:{size}", "--steps", str(options.steps)]
                found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
            print(f"{name:12s}{size:10s} {found}", flush=True)
            result["engines"].setdefault(name, {})[size] = found
    result["about"] = measured_on()
    if options.keep:
        write_result(kept, result)
        put_between(PAGE, "tail", table(result["engines"]))


if __name__ == "__main__":
    main()
