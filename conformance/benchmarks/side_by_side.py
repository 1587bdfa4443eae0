"""Engines side by side on the CPU: each in a process of its own, rounds interleaved, medians, ratios within one run.

    python conformance/benchmarks/side_by_side.py [--engines torch,numpy-plain] [--points seq,batch8] [--rounds 15]

An engine is checked against the conformance reference, in both directions, before it is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

POINTS = {  # T, N, I, H
    "step": (1, 1, 32, 64),
    "rnnoise": (100, 1, 90, 96),
    "seq": (100, 1, 64, 128),
    "batch8": (100, 8, 128, 256),
    "batch32": (50, 32, 256, 256),
}
SECONDS_A_ROUND = 0.15  # of timing, for each engine, point and round


class Torch:
    """torch.nn.GRU with autograd."""

    def __init__(self, x: Any, dy: Any, weights: Any):
        import torch

        self.torch = torch
        self.module = torch.nn.GRU(x.shape[2], dy.shape[2])
        with torch.no_grad():
            for name, weight in zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), weights, strict=True):
                getattr(self.module, name).copy_(torch.from_numpy(weight))
        self.x, self.dy = torch.from_numpy(x), torch.from_numpy(dy)
        self.x_grad = self.x.clone().requires_grad_()

    def inference(self) -> Any:
        with self.torch.inference_mode():
            return self.module(self.x)[0].numpy()

    def training(self) -> Any:
        self.module.zero_grad()
        self.x_grad.grad = None
        self.module(self.x_grad)[0].backward(self.dy)
        return self.x_grad.grad.numpy()


class GruXp:
    """gru_xp on NumPy arrays; GRU_XP_KERNELS says with which kernels."""

    def __init__(self, x: Any, dy: Any, weights: Any):
        import gru_xp

        self.gru_xp, self.x, self.dy = gru_xp, x, dy
        self.params = ((gru_xp.CellParams(*weights),),)
        self.prepared = gru_xp.prepare(self.params)

    def inference(self) -> Any:
        return self.gru_xp.gru_inference(self.x, self.prepared)[0]

    def training(self) -> Any:
        _, _, tape = self.gru_xp.gru_forward(self.x, self.params)
        return self.gru_xp.gru_backward(tape, self.dy).x


ENGINES: dict[str, tuple[type, dict[str, str]]] = {
    "torch": (Torch, {}),
    "numpy-plain": (GruXp, {"GRU_XP_KERNELS": "off"}),
    "numpy": (GruXp, {"GRU_XP_KERNELS": "auto"}),
}


def arrays(point: str) -> tuple[Any, Any, Any]:
    """x (T, N, I), dy (T, N, H) and the four weights of a point, in float32."""
    T, N, I, H = POINTS[point]
    rng = np.random.default_rng(7)
    k = 1 / np.sqrt(H)
    shapes = ((3 * H, I), (3 * H, H), (3 * H,), (3 * H,))
    weights = tuple(rng.uniform(-k, k, shape).astype(np.float32) for shape in shapes)
    return rng.normal(size=(T, N, I)).astype(np.float32), rng.normal(size=(T, N, H)).astype(np.float32), weights


def worker(name: str) -> None:
    """An engine's process: a line with a point and what to do comes in, seconds a call go out."""
    engines: dict[str, Any] = {}
    for line in sys.stdin:
        task, point = line.split()
        if point not in engines:
            engines[point] = ENGINES[name][0](*arrays(point))
        if task == "check":
            engine = engines[point]
            print(json.dumps([engine.inference().tolist(), engine.training().tolist()]), flush=True)
            continue
        run = getattr(engines[point], task)
        run()
        times: list[float] = []
        while sum(times) < SECONDS_A_ROUND or len(times) < 3:
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        print(json.dumps(statistics.median(times)), flush=True)


def ask(process: subprocess.Popen[str], task: str, point: str) -> Any:
    """One question to an engine's process."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{task} {point}\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"the engine ended with status {process.wait()}")
    return json.loads(line)


def assert_same(found: dict[str, Any], point: str) -> None:
    """All engines put out the same numbers, to float32's rounding over the sequence."""
    first_name, first = next(iter(found.items()))
    for name, values in found.items():
        for quantity, got, expected in zip(("y", "dx"), values, first, strict=True):
            worst = float(np.max(np.abs(np.asarray(got) - np.asarray(expected))))
            if worst > 1e-4 * float(np.max(np.abs(np.asarray(expected)))):
                raise SystemExit(f"{point}: {quantity} of {name} differs from {first_name}'s by {worst:.2e}")


def measure(engines: list[str], points: list[str], rounds: int) -> dict[str, Any]:
    """Medians over interleaved rounds, in milliseconds: [task][point][engine] -> (median, least, greatest)."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENGINES[name][1]},
        )
        for name in engines
    }
    times: dict[str, Any] = {task: {point: {name: [] for name in engines} for point in points} for task in TASKS}
    for point in points:
        assert_same({name: ask(process, "check", point) for name, process in processes.items()}, point)
    for _ in range(rounds):
        for task in TASKS:
            for point in points:
                for name, process in processes.items():
                    times[task][point][name].append(1e3 * ask(process, task, point))
    for process in processes.values():
        process.stdin.close()  # type: ignore[union-attr]
        process.wait()
    return {
        task: {
            point: {name: (statistics.median(t), min(t), max(t)) for name, t in of_point.items()}
            for point, of_point in of_task.items()
        }
        for task, of_task in times.items()
    }


TASKS = ("inference", "training")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for package in ("numpy", "torch", "gru-xp"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--points", default=",".join(POINTS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    engines, points = options.engines.split(","), options.points.split(",")
    result = measure(engines, points, options.rounds)

    from rich.console import Console
    from rich.table import Table

    about = machine()
    for task in TASKS:
        table = Table(title=f"{task}, float32, ms (median of {options.rounds} interleaved rounds; times {engines[0]})")
        table.add_column("point (T,N,I,H)")
        for name in engines:
            table.add_column(name, justify="right")
        for point in points:
            row = result[task][point]
            base = row[engines[0]][0]
            cells = [f"{row[name][0]:.3f}  {row[name][0] / base:.2f}x" for name in engines]
            table.add_row(f"{point} {POINTS[point]}", *cells)
        Console(width=110).print(table)
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rounds": options.rounds, "ms": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
