"""gru_xp on an NVIDIA GPU: first judged, then timed beside torch.nn.GRU (cuDNN).

    python conformance/benchmarks/cuda.py --out conformance/results

First the conformance cases on torch:cuda and cupy, plain and fused, in all number types and with TF32 off: cuda.json
and cuda.html. Then microseconds a step, forward and forward with backward, over H, N and the number type, T = 1024,
I = H, one layer in one direction: cuda_speed.json, .md (tables) and .png (a picture).

`gru_xp` is gru_xp_torch.GRU with whatever kernel it chooses, `plain` the same with GRU_XP_KERNELS=off; `graph`, forward
alone, is `gru_xp` captured as a CUDA graph and replayed. Times are CUDA events around whole calls: after a warm-up,
rounds interleaved over the engines, medians. Before it is timed, each engine's y, and dx, are held against torch.nn.GRU
in float64 on the same device, and PyTorch counts how often the call waits for the device.

Every point is written to the JSON as soon as it is there; --resume goes on where an earlier run ended. An engine that
fails or is wrong at a point is not timed there, the reason stands in its place, and the rest goes on; then the exit
status is 1. So it is without a GPU, after one line that says so. (--device cpu is for the tests of this script: it
times the host.)
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
import warnings
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
#: what a result in such numbers may be off by in any case
EPS = {name: torch.finfo(dtype).eps for name, dtype in NUMBERS.items()} | {"tf32": 2.0**-10}
JUDGED = ("torch:cuda", "cupy")
WORSE = 4.0  # times the peer's error that an engine may be off


class Point(NamedTuple):
    """What is measured."""

    numbers: str
    task: str
    H: int
    N: int
    T: int

    @classmethod
    def of(cls, row: dict[str, Any]) -> Point:
        """That of a row of the JSON."""
        return cls(*(row[key] for key in cls._fields))

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
    """The data of a point, on the device and in its number type, and the engines over it."""

    def __init__(self, point: Point, device: str):
        T, N, H = point.T, point.N, point.H
        torch.manual_seed(0)
        self.point, self.place = point, {"device": device, "dtype": NUMBERS[point.numbers]}
        self.weights = torch.nn.GRU(H, H, **self.place).state_dict()
        self.x, self.dy = torch.randn(T, N, H, **self.place), torch.randn(T, N, H, **self.place)

    def model(self, kind: Any, dtype: torch.dtype | None = None) -> Model:
        place = self.place if dtype is None else {**self.place, "dtype": dtype}
        module = kind(self.point.H, self.point.H, **place)
        module.load_state_dict(self.weights)
        return Model(module, self.x.to(place["dtype"]), self.dy.to(place["dtype"]), self.point.task)

    def engine(self, name: str) -> Any:
        model = self.model(torch.nn.GRU if name == PEER else gru_xp_torch.GRU)
        return Graph(model) if name == "graph" else model

    def exact(self) -> tuple[Any, ...]:
        """y and dx in float64, from parameters and data as the engines have them: rounded."""
        return self.model(torch.nn.GRU, torch.float64).run()

    def kernel(self) -> str:
        """What `explain` says of it."""
        params = gru_xp_torch.GRU(self.point.H, self.point.H, **self.place).params
        return gru_xp.explain(
            self.x, params, function="forward" if self.point.task == "training" else "inference"
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


def waits(run: Callable[[], Any]) -> int:
    """How often PyTorch sees the host wait for the device during a call."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing" in str(warning.message) for warning in told)


def measure(
    point: Point, names: list[str], options: Any, seconds: Callable[[Callable[[], Any]], float]
) -> dict[str, Any]:
    """One point: who computed it, how far each is off, microseconds a step of each (median, least, most).

    What failed is told in the place of its times.
    """
    problem = Problem(point, options.device)
    off: dict[str, list[float]] = {}
    waited: dict[str, int] = {}
    failed: dict[str, str] = {}
    engines: dict[str, Any] = {}
    times: dict[str, list[float]] = {}

    @contextmanager
    def attempt(name: str) -> Iterator[None]:
        try:
            with kernels(name):
                yield
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            engines.pop(name, None)

    with numbers(point.numbers):
        with kernels(OURS):
            kernel = problem.kernel()
        exact = problem.exact()
        for name in names:
            with attempt(name):
                engine = problem.engine(name)
                off[name] = errors(engine.run(), exact)
                worst = [WORSE * max(error, EPS[point.numbers]) for error in off.get(PEER, [0.0] * len(exact))]
                assert all(a <= b for a, b in zip(off[name], worst, strict=True)), f"off by {off[name]}"
                if options.device.startswith("cuda"):
                    waited[name] = waits(engine.run)
                engines[name] = engine
        del exact
        for turn in range(-options.warmup, options.rounds):
            for name in tuple(engines):
                with attempt(name):
                    taken = seconds(engines[name].run)
                    if turn >= 0:
                        times.setdefault(name, []).append(1e6 * taken / point.T)
    return {
        **point._asdict(),
        "kernel": kernel,
        "errors": {name: [float(f"{value:.3g}") for value in values] for name, values in off.items()},
        "waits": waited,
        "failed": failed,
        "microseconds": {
            name: [float(f"{value:.4g}") for value in (statistics.median(t), min(t), max(t))]
            for name, t in times.items()
            if name in engines
        },
    }


# ---- showing --------------------------------------------------------------------------------------------------------


def median(row: dict[str, Any], name: str) -> float:
    """Of a row's times; NaN where there is none."""
    times = row["microseconds"].get(name)
    return float(times[0]) if times else math.nan


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table for each number type, task and engine, H down and N across; and what failed."""
    lines = []
    for kind, task in dict.fromkeys((row["numbers"], row["task"]) for row in rows):
        mine = {(row["H"], row["N"]): row for row in rows if (row["numbers"], row["task"]) == (kind, task)}
        across = sorted({N for _, N in mine})
        for name in ENGINES:
            if not any(name in row["microseconds"] for row in mine.values()):
                continue
            beside = "" if name == PEER else f", and how many times as fast as {PEER}"
            lines += [
                f"{kind}, {task}: microseconds a step of {name}{beside}",
                "",
                "| H | " + " | ".join(f"N = {N}" for N in across) + " |",
                "|--:|" + "--:|" * len(across),
            ]
            for H in sorted({H for H, _ in mine}):
                lines.append(f"| {H} | " + " | ".join(cell(mine.get((H, N)), name) for N in across) + " |")
            lines.append("")
    lines += [f"- failed: {Point.of(row)}: {name}: {why}" for row in rows for name, why in row["failed"].items()]
    return "\n".join(lines) + "\n"


def cell(row: dict[str, Any] | None, name: str) -> str:
    """Of a table: "-" where the engine has no time."""
    if row is None:
        return ""
    if name not in row["microseconds"]:
        return "-"
    times_as_fast = "" if name == PEER else f" ({median(row, PEER) / median(row, name):.2f})"
    return f"{median(row, name):.3g}{times_as_fast}"


def picture(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """A panel for each number type and task: microseconds a step, gru_xp solid, nn.GRU dashed, a colour per N."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    kinds, tasks = (list(dict.fromkeys(row[key] for row in rows)) for key in ("numbers", "task"))
    batches = sorted({row["N"] for row in rows})
    figure = Figure(figsize=(4.2 * len(kinds), 3.4 * len(tasks)), layout="constrained")
    panels = figure.subplots(len(tasks), len(kinds), squeeze=False, sharex=True, sharey="row")
    for (i, task), (j, kind) in product(enumerate(tasks), enumerate(kinds)):
        panel = panels[i][j]
        for (k, N), (name, style) in product(enumerate(batches), ((OURS, "-"), (PEER, "--"))):
            mine = [row for row in rows if (row["numbers"], row["task"], row["N"]) == (kind, task, N)]
            points = sorted((row["H"], median(row, name)) for row in mine if name in row["microseconds"])
            if points:
                panel.loglog(*zip(*points, strict=True), style, color=f"C{k}", marker=".")
        panel.set_title(f"{kind}, {task}")
        panel.grid(alpha=0.3)
        if i == len(tasks) - 1:
            panel.set_xlabel("H")
        if j == 0:
            panel.set_ylabel("microseconds a step")
    figure.suptitle(title)
    lines = [
        Line2D([], [], color=f"C{k}", linestyle=style, marker=".", label=f"{name}, N = {N}")
        for k, N in enumerate(batches)
        for name, style in ((OURS, "-"), (PEER, "--"))
    ]
    figure.legend(handles=lines, loc="outside right upper")
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
    parser.add_argument("--out", type=Path, help="the folder to write to")
    parser.add_argument("--resume", action="store_true", help="keep what stands in the folder already")
    parser.add_argument("--unjudged", action="store_true", help="without the conformance cases")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(words)
    for name, choices in (("numbers", NUMBERS), ("tasks", TASKS), ("engines", ENGINES)):
        unknown = set(getattr(options, name)) - set(choices)
        if unknown:
            parser.error(f"--{name}: expected some of {', '.join(choices)}, got {', '.join(sorted(unknown))}")
    if options.resume and options.out is None:
        parser.error("--resume: expected --out too, the folder to go on with")
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


def with_what(where: dict[str, Any]) -> str:
    """In a line what the figures depend on."""
    modes = ", ".join(f"{name} {value}" for name, value in where["modes"].get("torch", {}).items())
    return f"PyTorch {where['versions']['torch']} ({modes}), driver {where['driver']}, commit {where['commit']}"


def judge(options: Any) -> bool:
    """Have the conformance cases run, in a process of their own, and keep what they say; whether all passed."""
    command = [sys.executable, "-m", "gru_xp_conformance", *JUDGED]
    if options.out:
        kept = options.out / "cuda.json"
        if options.resume and kept.exists():
            return bool(json.loads(kept.read_text(encoding="utf-8"))["passed"])
        command += ["--json", str(kept), "--html", str(kept.with_suffix(".html"))]
    return subprocess.run(command, env={**os.environ, "GRU_XP_REQUIRE": ",".join(JUDGED)}, check=False).returncode == 0


def main(words: list[str] | None = None, seconds: Callable[[Callable[[], Any]], float] | None = None) -> int:
    """Judge, measure, write, print; the exit status."""
    options = arguments(words)
    on_gpu = options.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        print(f"cuda.py: PyTorch {torch.__version__} finds no CUDA device here; nothing was measured", file=sys.stderr)
        return 1
    if on_gpu and ":" in options.device:
        torch.cuda.set_device(options.device)
    seconds = seconds or (cuda_seconds if on_gpu else host_seconds)
    figures = None
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        figures = options.out / "cuda_speed.json"
    right = options.unjudged or judge(options)
    rows: list[dict[str, Any]] = []
    if options.resume and figures.exists():
        rows = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    done = set(map(Point.of, rows))
    where = about(options.device)
    for kind, task, H, N in product(options.numbers, options.tasks, options.H, options.N):
        point = Point(kind, task, H, N, options.T)
        if point in done:
            continue
        try:
            row = measure(point, engines_for(task, options), options, seconds)
        except Exception as error:  # no data, or nothing to compare with
            why = f"{type(error).__name__}: {error}"
            row = {
                **point._asdict(),
                "kernel": "",
                "errors": {},
                "waits": {},
                "failed": {"all": why},
                "microseconds": {},
            }
        rows.append(row)
        told = [f"{name} {median(row, name):.4g}" for name in row["microseconds"]]
        told += [f"{name} failed ({why})" for name, why in row["failed"].items()]
        print(f"{point} ({row['kernel']}), us a step: {'  '.join(told)}", flush=True)
        if figures:
            figures.write_text(json.dumps({"about": where, "rows": rows}, indent=1) + "\n", encoding="utf-8")
        if on_gpu and not settled():
            print("cuda.py: the device is of no use to this process any more; go on with --resume", file=sys.stderr)
            return 1
    title = f"{where['device']}: microseconds a step, T = {options.T}, I = H"
    text = f"{title}\n\n{tables(rows)}\nMeasured with {with_what(where)}.\n"
    print("\n" + text)
    if figures:
        figures.with_suffix(".md").write_text(text, encoding="utf-8")
        picture(rows, figures.with_suffix(".png"), title)
    return 0 if right and not any(row["failed"] for row in rows) else 1


def settled() -> bool:
    """Give unused memory back, and say whether the device still works: some errors stay until the process ends."""
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except Exception:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
