"""Where the time goes inside the fused CPU kernels, by thread; float32.

    python conformance/benchmarks/phases.py 100,8,128,256 [--training]

Around every call that a kernel makes, the processor's clock is read. For that the kernels are compiled anew, in this
process only; reading costs some 25 cycles a call. The products are also given as a share of one core's multiply-add
peak: what is missing there they wait for memory, for each other's results or for their sums. The peak and the kernels
are measured in turns, since a virtual machine's speed changes within seconds; shares are medians of the turns.
"""

from __future__ import annotations

import argparse
import ctypes
import inspect
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

os.environ["GRU_XP_CACHE_DIR"] = "off"  # these kernels are for nobody else

import numpy as np
from llvmlite import ir
from probes import multiply_adds
from rich.console import Console
from rich.table import Table
from side_by_side import Kernels

from gru_xp_conformance.timing import Size, problem
from gru_xp_cpu.calling.kernel import build
from gru_xp_cpu.emit import compiler, target
from gru_xp_cpu.emit import function as functions
from gru_xp_cpu.emit.code import Code, Integers, Operand, Value
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import I64, Module
from gru_xp_cpu.passes.fields import Kind
from gru_xp_cpu.passes.kernels import KERNELS
from gru_xp_cpu.threads import workers

#: methods of the kernels that products are written by, and how many multiply-adds they do with sizes T, N, I, H
PRODUCTS: dict[str, Callable[[int, int, int, int], int]] = {
    "project_share": lambda T, N, I, H: T * N * 3 * H * I,
    "recurrent": lambda T, N, I, H: T * N * 3 * H * H,
    "recompute": lambda T, N, I, H: T * N * 3 * H * (I + H),
    "step": lambda T, N, I, H: T * N * 3 * H * H,
    "dx": lambda T, N, I, H: T * N * 3 * H * I,
    "weights": lambda T, N, I, H: T * N * 3 * H * (I + H),
}
MOST = 64
SECONDS, TURNS = 2.0, 20
phases: list[str] = []


def clock(c: Code) -> Value:
    """The processor's clock."""
    return Value(c, c.b.call(c.intrinsic("llvm.readcyclecounter", ir.FunctionType(I64, [])), []))


@contextmanager
def counted(c: Code, phase: str) -> Iterator[None]:
    """What the body writes is counted, for each thread by itself: how often it ran and how long."""
    if c.function.name not in KERNELS:
        yield
        return
    if phase not in phases:
        phases.append(phase)
    table = c.module.ir.globals.get("phases")
    if table is None:
        kind = ir.ArrayType(I64, workers.thread_count() * MOST * 2)
        table = ir.GlobalVariable(c.module.ir, kind, "phases")
        table.initializer = ir.Constant(kind, None)
    start = clock(c)
    yield
    ticks = clock(c) - start
    counters = c.pointer(Integers, Value(c, c.b.ptrtoint(table, I64)))
    part = Value(c, c.function.args[1])
    at = (part * MOST + phases.index(phase)) * 2
    for place, more in ((at, ticks), (at + 1, c.integer(1))):
        counters.store(counters.load(place) + more, place)


def count_all() -> None:
    """Have all calls of the kernels that are compiled from now on counted, and the kernels as a whole."""
    write_call = functions.write_call

    def counted_call(c: Code, name: str, called: Any, arguments: Sequence[Operand]) -> Value:
        if name.endswith("tile"):
            name += " in " + next(frame.function for frame in inspect.stack() if frame.function in PRODUCTS)
        with counted(c, name):
            return write_call(c, name, called, arguments)

    def counted_kernel(kind: Kind, write: Callable[..., None]) -> Callable[..., None]:
        @wraps(write)
        def write_counted(c: Code, *arguments: Operand) -> None:
            with counted(c, f"all of {kind}"):
                write(c, *arguments)

        return write_counted

    functions.write_call = counted_call
    for kind, kernel in KERNELS.items():
        kernel._write = counted_kernel(kind, kernel._write)


def counters(kind: Kind) -> Any:
    """(threads, phases, 2): ticks and calls."""
    address = compiler.machine(target.current(), kind, "float32", build).address("phases")
    count = workers.thread_count() * MOST * 2
    return np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(address)).reshape(-1, MOST, 2)


@function
def read_clock(c: Code) -> Value:
    """`clock`, to be called from Python."""
    return clock(c)


def ticks_per_second() -> float:
    """How fast the processor's clock goes."""
    module = Module(target.current(), "float32")
    read_clock.export(module, "now")
    machine = compiler.Machine(module.target, compiler.image_of(module))
    now, start = ctypes.CFUNCTYPE(ctypes.c_int64)(machine.address("now")), time.perf_counter()
    first = now()
    time.sleep(0.1)
    return float((now() - first) / (time.perf_counter() - start))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", type=Size.parse, help="T,N,I,H")
    parser.add_argument("--training", action="store_true")
    options = parser.parse_args()
    size = options.size
    kinds: list[Kind] = ["forward", "backward"] if options.training else ["forward"]
    one = problem(size, "float32")
    a_second = ticks_per_second()
    multiply_adds()
    count_all()
    engine = Kernels(one)
    run = engine.training if options.training else engine.inference
    for _ in range(20):
        run()
    turns: list[dict[Kind, Any]] = []
    peaks, seconds = [], []
    for _ in range(TURNS):
        peak = multiply_adds()
        for kind in kinds:
            counters(kind)[:] = 0
        start, calls = time.perf_counter(), 0
        while time.perf_counter() < start + SECONDS / TURNS:
            run()
            calls += 1
        seconds.append((time.perf_counter() - start) / calls)
        turns.append({kind: counters(kind) / calls for kind in kinds})
        peaks.append((peak + multiply_adds()) / 2 / workers.thread_count())
    whole = float(np.median(seconds))
    macs = size.multiply_adds("training" if options.training else "inference") / workers.thread_count()
    share = f"{np.median(macs / np.array(seconds) / peaks):.0%}"
    console = Console()
    for kind in kinds:
        each = np.array([turn[kind] for turn in turns])
        found = np.median(each, axis=0)
        table = Table(title=f"{kind}, {size}; {whole * 1e6:.1f} us a call, {share} of the peak, counting included")
        table.add_column("phase")
        for part in range(len(found)):
            table.add_column(f"thread {part}, us", justify="right")
        for name in ("calls", "of the peak"):
            table.add_column(name, justify="right")
        for index, phase in enumerate(phases):
            ticks, count = found[:, index, 0], found[:, index, 1].sum()
            if count:
                work = PRODUCTS.get(phase.partition(" in ")[2])
                busy = each[:, :, index, 0].sum(1) / a_second
                reached = f"{np.median(work(*size[:4]) / busy / peaks):.0%}" if work else ""
                table.add_row(phase, *(f"{one / a_second * 1e6:.1f}" for one in ticks), f"{count:.0f}", reached)
        console.print(table)


if __name__ == "__main__":
    main()
