"""gru_xp on an NVIDIA GPU beside torch.nn.GRU (cuDNN): microseconds a step, forward and forward with backward.

    python conformance/benchmarks/cuda.py --out conformance/results/cuda_speed

writes cuda_speed.json, .md (tables) and .png (a picture). Over H, N and the number type, T = 1024, I = H, one layer in
one direction. `gru_xp` is gru_xp_torch.GRU with whatever kernel it chooses, `plain` the same with GRU_XP_KERNELS=off;
`graph`, forward alone, is `gru_xp` captured as a CUDA graph and replayed. Times are CUDA events around whole calls:
after a warm-up, rounds interleaved over the engines, medians. Before it is timed, each engine's y, and dx, are held
against torch.nn.GRU in float64 on the same device.

Every point is written to the JSON as soon as it is there; --resume goes on where an earlier run ended. Without a GPU it
says so in one line, and the exit status is 1. (--device cpu is for the tests of this script: it times the host.)
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

import gru_xp
import gru_xp_torch
from gru_xp_conformance.environment import describe

HIDDEN = (64, 128, 160, 192, 256, 512, 768, 1024, 2048)
BATCH = (1, 8, 16, 32, 64, 128)
NUMBERS = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TASKS = ("forward", "training")
PEER, OURS = "nn.GRU", "gru_xp"
ENGINES = (PEER, OURS, "plain", "graph")
WORSE = 4.0  # times the peer's error that an engine may be off


class Point(NamedTuple):
    """What is measured."""

    numbers: str
    task: str
    H: int
    N: int
    T: int

    def __str__(self) -> str:
        return f"{self.numbers}, {self.task}, H = {self.H}, N = {self.N}, T = {self.T}"


# ---- the engines ----------------------------------------------------------------------------------------------------


class Model:
    """A module with its data; `run` is one call of the task, and gives y and, in training, dx."""

    def __init__(self, module: torch.nn.Module, x: Any, dy: Any, task: str):
        self.module, self.x, self.dy, self.task = module, x, dy, task
        if task == "training":
            self.x = x.clone().requires_grad_()

    def run(self) -> tuple[Any, ...]:
        if self.task == "forward":
            with torch.inference_mode():
                return (self.module(self.x)[0],)
        self.module.zero_grad(set_to_none=True)
        self.x.grad = None
        y = self.module(self.x)[0]
        y.backward(self.dy)
        return y.detach(), self.x.grad


class Graph:
    """A forward call captured once and replayed."""

    def __init__(self, model: Model):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles and loads what cannot be loaded while a graph is captured
            model.run()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = model.run()

    def run(self) -> tuple[Any, ...]:
        self.graph.replay()
        return self.out


class Problem:
    """The data of a point and the engines over it."""

    def __init__(self, point: Point, device: str):
        T, N, H = point.T, point.N, point.H
        torch.manual_seed(0)
        self.point, self.device, self.dtype = point, device, NUMBERS[point.numbers]
        self.nn = torch.nn.GRU(H, H)
        self.x, self.dy = torch.randn(T, N, H), torch.randn(T, N, H)

    def model(self, module: torch.nn.Module, dtype: torch.dtype) -> Model:
        module.load_state_dict(self.nn.state_dict())
        x, dy = (a.to(self.device, dtype) for a in (self.x, self.dy))
        return Model(module.to(self.device, dtype), x, dy, self.point.task)

    def engine(self, name: str) -> Any:
        H = self.point.H
        model = self.model(torch.nn.GRU(H, H) if name == PEER else gru_xp_torch.GRU(H, H), self.dtype)
        return Graph(model) if name == "graph" else model

    def exact(self) -> tuple[Any, ...]:
        """y and dx in float64, from parameters and data as the engines have them: rounded."""
        rounded = self.dtype
        self.nn.to(rounded).to(torch.float64)
        self.x, self.dy = (a.to(rounded).to(torch.float64) for a in (self.x, self.dy))
        return self.model(torch.nn.GRU(self.point.H, self.point.H), torch.float64).run()

    def kernel(self) -> str:
        """What `explain` says of it."""
        module = gru_xp_torch.GRU(self.point.H, self.point.H).to(self.device, self.dtype)
        x = self.x[:1].to(self.device, self.dtype)
        return gru_xp.explain(
            x, module.params, function="forward" if self.point.task == "training" else "inference"
        ).kernel


def errors(found: tuple[Any, ...], exact: tuple[Any, ...]) -> list[float]:
    """The largest error of each result, as a fraction of its largest value."""
    return [float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True)]


# ---- measuring ------------------------------------------------------------------------------------------------------


@contextmanager
def numbers(kind: str) -> Iterator[None]:
    """TF32 for everybody or for nobody."""
    before = torch.get_float32_matmul_precision()
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=kind == "tf32"):
        torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


@contextmanager
def kernels(name: str) -> Iterator[None]:
    """The variable as the engine wants it."""
    before = os.environ.get("GRU_XP_KERNELS")
    os.environ["GRU_XP_KERNELS"] = "off" if name == "plain" else "auto"
    try:
        yield
    finally:
        os.environ.pop("GRU_XP_KERNELS") if before is None else os.environ.update(GRU_XP_KERNELS=before)


def cuda_seconds(run: Callable[[], Any]) -> float:
    """Of one call, from one event of the current stream to another."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def host_seconds(run: Callable[[], Any]) -> float:
    """Of one call on the CPU."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(
    point: Point, names: list[str], options: Any, seconds: Callable[[Callable[[], Any]], float]
) -> dict[str, Any]:
    """One point: who computed it, how far each is off, microseconds a step of each (median, least, most)."""
    problem = Problem(point, options.device)
    with numbers(point.numbers):
        exact = problem.exact()
        engines, off = {}, {}
        for name in names:
            with kernels(name):
                engines[name] = problem.engine(name)
                off[name] = errors(engines[name].run(), exact)
        del exact
        for name in names:
            bound = [WORSE * max(peer, torch.finfo(problem.dtype).eps) for peer in off[PEER]]
            assert all(a <= b for a, b in zip(off[name], bound, strict=True)), f"{point}: {name} is off by {off[name]}"
        times: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(-options.warmup, options.rounds):
            for name in names:
                with kernels(name):
                    taken = seconds(engines[name].run)
                if turn >= 0:
                    times[name].append(1e6 * taken / point.T)
        with kernels(OURS):
            kernel = problem.kernel()
    return {
        **point._asdict(),
        "kernel": kernel,
        "errors": {name: [float(f"{value:.3g}") for value in values] for name, values in off.items()},
        "microseconds": {
            name: [float(f"{value:.4g}") for value in (statistics.median(t), min(t), max(t))]
            for name, t in times.items()
        },
    }


# ---- showing --------------------------------------------------------------------------------------------------------


def median(row: dict[str, Any], name: str) -> float:
    return float(row["microseconds"][name][0])


def ours(row: dict[str, Any]) -> float:
    return median(row, OURS)


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table for each number type and task, H down and N across."""
    lines = []
    for kind, task in dict.fromkeys((row["numbers"], row["task"]) for row in rows):
        mine = {(row["H"], row["N"]): row for row in rows if (row["numbers"], row["task"]) == (kind, task)}
        across = sorted({N for _, N in mine})
        lines += [
            f"{kind}, {task}: microseconds a step of gru_xp, and how many times as fast as nn.GRU",
            "",
            "| H | " + " | ".join(f"N = {N}" for N in across) + " |",
            "|--:|" + "--:|" * len(across),
        ]
        for H in sorted({H for H, _ in mine}):
            cells = (
                f"{ours(row):.3g} ({median(row, PEER) / ours(row):.2f})" if (row := mine.get((H, N))) else ""
                for N in across
            )
            lines.append(f"| {H} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """A panel for each number type and task: microseconds a step, gru_xp solid, nn.GRU dashed, a colour per N."""
    from matplotlib.figure import Figure

    kinds, tasks = (list(dict.fromkeys(row[key] for row in rows)) for key in ("numbers", "task"))
    batches = sorted({row["N"] for row in rows})
    figure = Figure(figsize=(4.2 * len(kinds), 3.4 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), len(kinds), squeeze=False, sharex=True, sharey="row")
    for (i, task), (j, kind) in product(enumerate(tasks), enumerate(kinds)):
        panel = panels[i][j]
        for k, N in enumerate(batches):
            mine = sorted(
                (r for r in rows if (r["numbers"], r["task"], r["N"]) == (kind, task, N)), key=lambda r: r["H"]
            )
            for name, style in ((OURS, "-"), (PEER, "--")):
                label = f"{name}, N = {N}" if (i, j) == (0, 0) else None
                values = [median(row, name) for row in mine]
                panel.plot([r["H"] for r in mine], values, style, color=f"C{k}", marker=".", label=label)
        panel.set(title=f"{kind}, {task}", xscale="log", yscale="log")
        panel.grid(alpha=0.3)
        if i == len(tasks) - 1:
            panel.set_xlabel("H")
        if j == 0:
            panel.set_ylabel("microseconds a step")
    figure.suptitle(title)
    figure.legend(loc="outside right upper")
    figure.savefig(path, dpi=120)


# ---- the command ----------------------------------------------------------------------------------------------------


def arguments(words: list[str] | None) -> Any:
    """The options; lists are written with commas."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("H", HIDDEN), ("N", BATCH)):
        parser.add_argument(f"--{name}", type=lambda text: tuple(map(int, text.split(","))), default=default)
    for name, choices in (("numbers", tuple(NUMBERS)), ("tasks", TASKS), ("engines", ENGINES)):
        parser.add_argument(
            f"--{name}", type=lambda text: tuple(text.split(",")), default=choices, help=", ".join(choices)
        )
    parser.add_argument("--T", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warmup", type=int, default=3, help="rounds that are not counted")
    parser.add_argument("--out", type=Path, help="the files to write, without their suffixes")
    parser.add_argument("--resume", action="store_true", help="keep the points that stand in the JSON already")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(words)
    for name, choices in (("numbers", NUMBERS), ("tasks", TASKS), ("engines", ENGINES)):
        unknown = set(getattr(options, name)) - set(choices)
        if unknown:
            parser.error(f"--{name}: expected some of {', '.join(choices)}, got {', '.join(sorted(unknown))}")
    if options.resume and options.out is None:
        parser.error("--resume: expected --out too, the files to go on with")
    return options


def engines_for(task: str, options: Any) -> list[str]:
    """nn.GRU always, because it is what the others are compared with; graphs are forward alone, and CUDA's."""
    graphs = task == "forward" and options.device.startswith("cuda")
    wanted = {PEER, OURS, *options.engines} - (set() if graphs else {"graph"})
    return [name for name in ENGINES if name in wanted]


def about(device: str) -> dict[str, Any]:
    """What was measured on."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "the host, not a GPU"
    return {"device": name, **describe(["torch"])}


def main(words: list[str] | None = None, seconds: Callable[[Callable[[], Any]], float] | None = None) -> int:
    """Measure, write, print; the exit status."""
    options = arguments(words)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"cuda.py: PyTorch {torch.__version__} finds no CUDA device here; nothing was measured", file=sys.stderr)
        return 1
    seconds = seconds or (cuda_seconds if options.device.startswith("cuda") else host_seconds)
    figures = options.out and options.out.with_name(options.out.name + ".json")
    rows: list[dict[str, Any]] = []
    if options.resume and figures.exists():
        rows = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    done = {Point(*(row[key] for key in Point._fields)) for row in rows}
    where = about(options.device)
    for kind, task, H, N in product(options.numbers, options.tasks, options.H, options.N):
        point = Point(kind, task, H, N, options.T)
        if point in done:
            continue
        rows.append(measure(point, engines_for(task, options), options, seconds))
        medians = "  ".join(f"{name} {median(rows[-1], name):.4g}" for name in rows[-1]["microseconds"])
        print(f"{point} ({rows[-1]['kernel']}): {medians} us a step", flush=True)
        if figures:
            figures.write_text(json.dumps({"about": where, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    text = tables(rows)
    print("\n" + text)
    if figures:
        figures.with_suffix(".md").write_text(text, encoding="utf-8")
        title = f"{where['device']}: microseconds a step, T = {options.T}, I = H"
        picture(rows, figures.with_suffix(".png"), title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
