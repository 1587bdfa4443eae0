"""What this processor can do, by the fused kernels' code: its multiply-add peak, and how fast threads meet."""

from __future__ import annotations

import ctypes
import threading
import time
from functools import cache

import numpy as np

from gru_xp_cpu.emit import compiler, target
from gru_xp_cpu.emit.code import Code, Integers, Reals, Value
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import Module
from gru_xp_cpu.passes.shapes import gates_shapes
from gru_xp_cpu.passes.tiles import tile
from gru_xp_cpu.threads import workers
from gru_xp_cpu.threads.barrier import Sections

__all__ = ["meetings", "multiply_adds"]

DEPTH, TILES, MEETINGS = 128, 40_000, 20_000


@function
def largest_tile(c: Code, count: Value, A: Reals, K: Value, B: Reals, first: Reals, dst: Reals) -> None:
    """The tile with the most sums, `count` times over the same numbers."""
    module = c.module
    shapes, V = gates_shapes(module.target.registers), module.lanes
    zero, row, block = (c.integer(number) for number in (0, V, V * shapes.rows))
    with c.loop(0, count):
        tile(c, A, row, block, K, B, zero, first, zero, dst, B, **shapes.variants[-1])


@function
def sections(c: Code, fields: Integers, part: Value, parts: Value, sync: Integers) -> None:
    """A kernel of nothing but parallel sections."""
    parallel = Sections(c, part, parts, sync)
    with c.loop(0, MEETINGS), parallel.section():
        pass
    parallel.finish()


@cache
def _machine() -> compiler.Machine:
    module = Module(target.current(), "float32")
    largest_tile.export(module, "largest_tile")
    sections.export(module, "sections")
    return compiler.Machine(module.target, compiler.image_of(module))


def multiply_adds() -> float:
    """Multiply-adds a second of the largest tile with everything in the nearest cache, on all threads."""
    module = Module(target.current(), "float32")
    shapes, V, threads = gates_shapes(module.target.registers), module.lanes, workers.thread_count()
    run = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(_machine().address("largest_tile"))

    def work() -> None:
        memory = np.zeros(1 << 15, np.float32)
        at = memory.ctypes.data + -memory.ctypes.data % 64
        run(TILES, at, DEPTH, at + 8192, at + 65536, at + 70000 // 64 * 64)

    running = [threading.Thread(target=work) for _ in range(threads)]
    start = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return threads * TILES * shapes.rows * 3 * V * DEPTH / (time.perf_counter() - start)


def meetings() -> float:
    """Seconds in which all threads meet, as those do that share a row after each step."""
    machine, start = _machine(), time.perf_counter()
    workers.run(target.current(), machine.address("sections"), b"", workers.thread_count())
    return (time.perf_counter() - start) / MEETINGS
