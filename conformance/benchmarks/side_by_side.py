"""gru_xp on the CPU beside its peers: torch.nn.GRU, JAX's lax.scan under jit, onnxruntime, OpenVINO; float32.

    python conformance/benchmarks/side_by_side.py [--points step,seq] [--rounds 7] [--engines torch,gru_xp]
        [--json F]      adds to what stands there: the points may be measured one after the other
        [--show F]      measures nothing: the table of such a file, for --readme and --picture
        [--readme F]    puts the table between its marks there
        [--picture F]   draws it

`gru_xp` is the public functions with NumPy arrays, `plain` the same with GRU_XP_KERNELS=off: the pure array API.
`kernels` is the fused kernels called without the checks of the front doors, a single step by a stream.

How it is measured stands in `gru_xp_conformance.timing`. The multiply-add peak of the machine is measured in the same
run. A peer that is not installed is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from peers import PEERS
from rich.console import Console

from gru_xp_conformance.bench import Library
from gru_xp_conformance.environment import processor
from gru_xp_conformance.judge import Target
from gru_xp_conformance.report import put_between
from gru_xp_conformance.timing import TASKS, Command, Problem, Size, Timing, as_json, compare, serve
from gru_xp_conformance.timing_report import milliseconds, picture, print_timings

POINTS = {
    "step": Size(1, 1, 32, 64),
    "rnnoise": Size(100, 1, 90, 96),
    "seq": Size(100, 1, 64, 128),
    "seq512": Size(200, 1, 512, 512),
    "batch8": Size(100, 8, 128, 256),
    "batch32": Size(50, 32, 256, 256),
    "batch64": Size(100, 64, 512, 512),
    "batch32-1024": Size(50, 32, 1024, 1024),
    "bidirectional": Size(50, 16, 128, 256, 2, 2),
}
PACKAGES = ("numpy", "torch", "jax", "onnxruntime", "openvino", "llvmlite")


# ---- our engines ----------------------------------------------------------------------------------------------------


class Kernels:
    """The fused kernels through the stack, without the front doors; inference with packed weights, or a stream."""

    def __init__(self, problem: Problem):
        import array_api_compat.numpy as xp

        from gru_xp.interfaces import Options
        from gru_xp.params import CellParams
        from gru_xp.stack import Stack
        from gru_xp_cpu import numpy_layer
        from gru_xp_cpu.calling.stream import Stream

        self.stack, self.x, self.dy = Stack(xp, numpy_layer), problem.x, problem.dy
        self.params = tuple(tuple(CellParams(*w) for w in directions) for directions in problem.params)
        self.packed = tuple(tuple(map(numpy_layer.pack, directions)) for directions in self.params)
        N, D, H = self.x.shape[1], len(self.params[0]), self.params[0][0].W_hh.shape[1]
        self.stream = Stream(self.params, N) if len(self.x) == 1 and D == 1 else None
        self.h0 = np.zeros((len(self.params) * D, N, H), np.float32)
        self.options = Options()

    def inference(self) -> Any:
        if self.stream is not None:
            self.stream.reset()
            return self.stream.step(self.x[0])[None]
        return self.stack.inference(self.x, self.h0, self.packed, self.options, None)[0]

    def training(self) -> Any:
        _, _, tapes = self.stack.forward(self.x, self.h0, self.params, self.options._replace(save="all"), None)
        return self.stack.backward(tapes, self.dy, None, None)

    gradients = Library.gradients

    def peak(self) -> float:
        """Multiply-adds a second of the largest tile with everything in the nearest cache, on all threads."""
        import ctypes
        import threading

        from gru_xp_cpu.emit import compiler, target
        from gru_xp_cpu.emit.code import Code, Reals, Value
        from gru_xp_cpu.emit.function import function
        from gru_xp_cpu.emit.module import Module
        from gru_xp_cpu.passes.shapes import gates_shapes
        from gru_xp_cpu.passes.tiles import tile
        from gru_xp_cpu.threads import workers

        module = Module(target.current(), "float32")
        shapes, V = gates_shapes(module.target.registers), module.lanes

        @function
        def many(c: Code, count: Value, A: Reals, K: Value, B: Reals, first: Reals, dst: Reals) -> None:
            zero, row, block = (c.integer(number) for number in (0, V, V * shapes.rows))
            with c.loop(0, count):
                tile(c, A, row, block, K, B, zero, first, zero, dst, B, **shapes.variants[-1])

        many.export(module, "many")
        machine = compiler.Machine(module.target, compiler.image_of(module))
        run, K, turns = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(machine.address("many")), 128, 40_000
        best, count = 0.0, workers.thread_count()

        def work() -> None:
            memory = np.zeros(1 << 15, np.float32)
            at = memory.ctypes.data + -memory.ctypes.data % 64
            run(turns, at, K, at + 8192, at + 65536, at + 70000 // 64 * 64)

        for _ in range(5):
            threads = [threading.Thread(target=work) for _ in range(count)]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            best = max(best, count * turns * shapes.rows * 3 * V * K / (time.perf_counter() - start))
        return best

    def meeting(self) -> float:
        """Seconds in which all threads meet, as those do that share a row after each step."""
        from gru_xp_cpu.emit import compiler, target
        from gru_xp_cpu.emit.code import Code, Integers, Value
        from gru_xp_cpu.emit.function import function
        from gru_xp_cpu.emit.module import Module
        from gru_xp_cpu.threads import workers
        from gru_xp_cpu.threads.barrier import Sections

        turns = 20_000

        @function
        def meetings(c: Code, fields: Integers, part: Value, parts: Value, sync: Integers) -> None:
            sections = Sections(c, part, parts, sync)
            with c.loop(0, turns), sections.section():
                pass
            sections.finish()

        module = Module(target.current(), "float32")
        meetings.export(module, "meetings")
        machine, times = compiler.Machine(module.target, compiler.image_of(module)), []
        for _ in range(5):
            start = time.perf_counter()
            workers.run(module.target, machine.address("meetings"), b"", workers.thread_count())
            times.append((time.perf_counter() - start) / turns)
        return min(times)


OURS = ("gru_xp", "kernels", "plain")
ENGINES = {
    **PEERS,
    "gru_xp": lambda problem: Library(problem, Target("numpy", "cpu", "cpu")),
    "kernels": Kernels,
    "plain": lambda problem: Library(problem, Target("numpy", "cpu", "plain")),
}


# ---- the report -----------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    words = cpuinfo.read_text().split() if cpuinfo.exists() else []
    found: dict[str, Any] = {
        "processor": processor(),
        "vectors": next((name for name in ("avx512f", "avx2", "asimd") if name in words), "?"),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def best_peer(timings: Sequence[Timing], size: Size, task: str) -> float | None:
    """The seconds of the fastest peer."""
    found = [one.median for one in timings if (one.size, one.task) == (size, task) and one.engine in PEERS]
    return min(found, default=None)


def print_ratios(console: Console, timings: Sequence[Timing], known: dict[str, Any]) -> None:
    """How much faster than the best peer, the share of the multiply-add peak, and how far away the cores are."""
    for name, size in POINTS.items():
        for task in TASKS:
            best = best_peer(timings, size, task)
            for one in timings:
                if (one.size, one.task) == (size, task) and one.engine in ("gru_xp", "kernels") and best is not None:
                    line = f"{name:14s}{task:10s}{one.engine:8s}{best / one.median:6.2f} times as fast as the best peer"
                    peak, meeting = (known[what].get(f"{name} {task}") for what in ("peaks", "meetings"))
                    if peak is not None:
                        line += f", {size.multiply_adds(task) / one.median / peak:4.0%} of the peak"
                    if meeting is not None:
                        line += f", threads meet in {meeting * 1e6:.2f} us"
                    console.print(line, highlight=False)


def markdown(timings: Sequence[Timing]) -> str:
    """The table for the README: a row for each point and task."""
    columns = [name for name in ENGINES if name != "kernels" and any(one.engine == name for one in timings)]
    names = {"gru_xp": "**gru_xp**", "plain": "plain path"}
    lines = [
        "| T, N, I, H | task | "
        + " | ".join(names.get(name, name) for name in columns)
        + " | times as fast as the best peer |",
        "|---|---|" + "--:|" * len(columns) + "--:|",
    ]
    for size in POINTS.values():
        for task in TASKS:
            found = {one.engine: one.median for one in timings if (one.size, one.task) == (size, task)}
            best = best_peer(timings, size, task)
            if not found or best is None:
                continue
            cells = [milliseconds(found[name]) if name in found else "-" for name in columns]
            marked = [f"**{cell}**" if name == "gru_xp" else cell for name, cell in zip(columns, cells, strict=True)]
            lines.append(f"| {size} | {task} | {' | '.join(marked)} | {best / found['gru_xp']:.2f} |")
    return "\n".join(lines)


def measured_on(about: dict[str, Any]) -> str:
    """The machine, in a sentence."""
    packages = ", ".join(f"{name} {about[name]}" for name in ("python", *PACKAGES) if name in about)
    return (
        f"Measured on {about['cores']} cores of {about['processor']} ({about['vectors']}), a shared machine: read it "
        f"as ratios. float32; medians of at least {about['rounds']} rounds. Versions: {packages}."
    )


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--points", default=",".join(POINTS))
    parser.add_argument("--rounds", type=int, default=7)
    for option in ("--json", "--show", "--readme", "--picture"):
        parser.add_argument(option, type=Path)
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        serve(ENGINES[options.engine])
        return
    console = Console(width=150)
    kept = options.show or options.json
    known = json.loads(kept.read_text()) if kept is not None and kept.exists() else {"timings": []}
    known = {"peaks": {}, "meetings": {}, **known}
    if options.show is None:
        known = measured(console, options, known)
        if options.json:
            options.json.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    timings = [Timing(**{**one, "size": Size(*one["size"])}) for one in known["timings"]]
    print_timings(console, timings, {})
    print_ratios(console, timings, known)
    if options.readme:
        put_between(options.readme, "speed", f"{markdown(timings)}\n\n{measured_on(known['about'])}")
    if options.picture:
        picture([one for one in timings if one.engine != "kernels"], options.picture, "gru_xp")


def measured(console: Console, options: argparse.Namespace, known: dict[str, Any]) -> dict[str, Any]:
    """The points that were asked for, beside those that are known."""
    names, peaks, meetings = options.engines.split(","), dict(known["peaks"]), dict(known["meetings"])
    commands = {
        name: Command(
            [sys.executable, __file__, "--engine", name], {"GRU_XP_KERNELS": "off" if name == "plain" else "auto"}
        )
        for name in names
    }
    ask = [("kernels", "peak"), ("kernels", "meeting")] if "kernels" in names else []
    points = options.points.split(",")
    sizes = [POINTS[point] for point in points]
    fresh, left_out, answers = compare(commands, sizes, rounds=options.rounds, ask_too=ask)
    for name, reason in left_out.items():
        console.print(f"{name}: {reason}", highlight=False)
    for what, kept in (("peak", peaks), ("meeting", meetings)):
        seen = iter(answers.get(what, []))
        for (point, task), before, after in zip(product(points, TASKS), seen, seen, strict=False):
            kept[f"{point} {task}"] = max(before, after)
    done = {one.size for one in fresh}
    timings = [one for one in known["timings"] if Size(*one["size"]) not in done] + as_json(fresh)
    order = list(POINTS.values())
    timings.sort(key=lambda one: order.index(Size(*one["size"])))
    rounds = min(options.rounds, known.get("about", {}).get("rounds", options.rounds))
    return {"about": {**machine(), "rounds": rounds}, "peaks": peaks, "meetings": meetings, "timings": timings}


if __name__ == "__main__":
    main()
