"""gru_xp on the CPU beside its peers: torch.nn.GRU, JAX's lax.scan under jit, onnxruntime, OpenVINO; float32.

    python conformance/benchmarks/side_by_side.py [--points step,seq] [--rounds 7] [--engines torch,gru_xp]
        [--keep]        adds to the result file of this kind of processor: conformance/results/side_by_side/KIND.json
        [--json F]      adds to another file; the points may be measured one after the other
        [--show F]      measures nothing: the tables of such a file, for --picture
        [--picture F]   draws it

`gru_xp` is the public functions with NumPy arrays, `plain` the same with GRU_XP_KERNELS=off: the pure array API.
`kernels` is the fused kernels called without the checks of the public functions, a single step by a stream.

`gru_xp_conformance.timing` says how it is measured. The multiply-add peak of the machine is measured in the same
run. A peer that is not installed is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from peers import PEERS
from points import POINTS
from probes import meetings, multiply_adds
from processors import measured_on, result_file, write_result
from ratios import best_peer, read, timings_of
from rich.console import Console

from gru_xp_conformance.bench import Library
from gru_xp_conformance.judge import Target
from gru_xp_conformance.timing import TASKS, Command, Problem, Size, Timing, as_json, compare, serve
from gru_xp_conformance.timing_report import picture, print_timings

# ---- our engines ----------------------------------------------------------------------------------------------------


class Kernels:
    """The fused kernels through the stack, without public checks; inference with packed weights, or a stream."""

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
        """Multiply-adds a second of all threads."""
        return max(multiply_adds() for _ in range(5))

    def meeting(self) -> float:
        """Seconds in which all threads meet."""
        return min(meetings() for _ in range(5))


OURS = ("gru_xp", "kernels", "plain")
ENGINES = {
    **PEERS,
    "gru_xp": lambda problem: Library(problem, Target("numpy", "cpu", "cpu")),
    "kernels": Kernels,
    "plain": lambda problem: Library(problem, Target("numpy", "cpu", "plain")),
}


# ---- the report -----------------------------------------------------------------------------------------------------


def print_ratios(console: Console, timings: Sequence[Timing], known: dict[str, Any]) -> None:
    """How much faster than the best peer, the share of the multiply-add peak, and how far away the cores are."""
    for name, size in POINTS.items():
        for task in TASKS:
            best = best_peer(timings, size, task)
            for one in timings:
                if (one.size, one.task) == (size, task) and one.engine in ("gru_xp", "kernels") and best is not None:
                    ratio = best.median / one.median
                    line = f"{name:14s}{task:10s}{one.engine:8s}{ratio:6.2f} times as fast as the best peer"
                    peak, meeting = (known[what].get(f"{name} {task}") for what in ("peaks", "meetings"))
                    if peak is not None:
                        line += f", {size.multiply_adds(task) / one.median / peak:4.0%} of the peak"
                    if meeting is not None:
                        line += f", threads meet in {meeting * 1e6:.2f} us"
                    console.print(line, highlight=False)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--points", default=",".join(POINTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", action="store_true")
    for option in ("--json", "--show", "--picture"):
        parser.add_argument(option, type=Path)
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        serve(ENGINES[options.engine])
        return
    console = Console(width=150)
    kept = options.show or options.json or (result_file("side_by_side") if options.keep else None)
    known = read(kept)
    if options.show is None:
        known = measured(console, options, known)
        if kept is not None:
            write_result(kept, known)
    timings = timings_of(known)
    print_timings(console, timings, {})
    print_ratios(console, timings, known)
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
    return {"about": {**measured_on(), "rounds": rounds}, "peaks": peaks, "meetings": meetings, "timings": timings}


if __name__ == "__main__":
    main()
