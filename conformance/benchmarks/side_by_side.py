"""gru_xp on the CPU beside its peers: torch.nn.GRU, JAX's lax.scan under jit, onnxruntime; float32.

    python conformance/benchmarks/side_by_side.py [--points step,seq] [--rounds 9] [--engines torch,numpy] [--json F]

`gru_xp` is the fused CPU kernels called directly, `numpy` the public functions with NumPy arrays and whatever kernel
they choose, `numpy-plain` the same with GRU_XP_KERNELS=off: the pure array API.

Every engine has a process of its own, since their threads wait spinning for each other; rounds are interleaved; each
engine is checked against the first before it is timed. The multiply-add peak of the machine is measured in the same
run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

POINTS = {  # T, N, I, H, layers, directions
    "step": (1, 1, 32, 64, 1, 1),
    "rnnoise": (100, 1, 90, 96, 1, 1),
    "seq": (100, 1, 64, 128, 1, 1),
    "seq512": (200, 1, 512, 512, 1, 1),
    "batch8": (100, 8, 128, 256, 1, 1),
    "batch32": (50, 32, 256, 256, 1, 1),
    "batch64": (100, 64, 512, 512, 1, 1),
    "batch32-1024": (50, 32, 1024, 1024, 1, 1),
    "bidirectional": (50, 16, 128, 256, 2, 2),
}
TASKS = ("inference", "training")
SECONDS = 0.2  # of timing, for each engine, point, task and round


def problem(point: str) -> tuple[Any, Any, list[list[list[Any]]]]:
    """x (T, N, I), dy (T, N, D*H) and the four weights of each layer and direction, float32."""
    T, N, I, H, L, D = POINTS[point]
    rng, k = np.random.default_rng(7), H**-0.5

    def weights(K: int) -> list[Any]:
        shapes: list[tuple[int, ...]] = [(3 * H, K), (3 * H, H), (3 * H,), (3 * H,)]
        return [rng.uniform(-k, k, shape).astype(np.float32) for shape in shapes]

    params = [[weights(I if layer == 0 else D * H) for _ in range(D)] for layer in range(L)]
    return rng.standard_normal((T, N, I), np.float32), rng.standard_normal((T, N, D * H), np.float32), params


def multiply_adds(point: str) -> int:
    """Of one inference; training has three times as many."""
    T, N, I, H, L, D = POINTS[point]
    return T * N * D * 3 * H * sum((I if layer == 0 else D * H) + H for layer in range(L))


# ---- the engines ----------------------------------------------------------------------------------------------------


class Torch:
    """torch.nn.GRU with autograd."""

    def __init__(self, x: Any, dy: Any, params: Any):
        import torch

        self.torch = torch
        D, H = len(params[0]), params[0][0][1].shape[1]
        self.module = torch.nn.GRU(x.shape[2], H, len(params), bidirectional=D == 2)
        with torch.no_grad():
            for layer, directions in enumerate(params):
                for d, weights in enumerate(directions):
                    for name, weight in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), weights, strict=True):
                        getattr(self.module, f"{name}_l{layer}{'_reverse' * d}").copy_(torch.from_numpy(weight))
        self.x, self.dy = torch.from_numpy(x), torch.from_numpy(dy)
        self.x_grad = self.x.clone().requires_grad_()

    def inference(self) -> Any:
        with self.torch.inference_mode():
            return self.module(self.x)[0].numpy()

    def training(self) -> Any:
        self.module.zero_grad()
        self.x_grad.grad = None
        self.module(self.x_grad)[0].backward(self.dy)
        assert self.x_grad.grad is not None
        return self.x_grad.grad.numpy()


class Jax:
    """The textbook GRU in JAX: one input product, lax.scan, jit."""

    def __init__(self, x: Any, dy: Any, params: Any):
        import jax
        import jax.numpy as jnp

        def layer(x: Any, w: Any, reverse: bool) -> Any:
            W_ih, W_hh, b_ih, b_hh = w
            H = W_hh.shape[1]

            def step(h: Any, gi: Any) -> Any:
                gh = h @ W_hh.T + b_hh
                r, z = jax.nn.sigmoid(gi[:, :H] + gh[:, :H]), jax.nn.sigmoid(gi[:, H : 2 * H] + gh[:, H : 2 * H])
                n = jnp.tanh(gi[:, 2 * H :] + r * gh[:, 2 * H :])
                h = (1 - z) * n + z * h
                return h, h

            h0 = jnp.zeros((x.shape[1], H), x.dtype)
            return jax.lax.scan(step, h0, x @ W_ih.T + b_ih, reverse=reverse)[1]

        def gru(x: Any, params: Any) -> Any:
            for directions in params:
                x = jnp.concatenate([layer(x, w, d == 1) for d, w in enumerate(directions)], axis=-1)
            return x

        self.x, self.dy = jnp.asarray(x), jnp.asarray(dy)
        self.params = jax.tree.map(jnp.asarray, params)
        self.run = jax.jit(gru)
        self.gradient = jax.jit(jax.grad(lambda x, params: (gru(x, params) * self.dy).sum(), (0, 1)))
        self.block = jax.block_until_ready

    def inference(self) -> Any:
        return self.block(self.run(self.x, self.params))

    def training(self) -> Any:
        return self.block(self.gradient(self.x, self.params))[0]


class Onnxruntime:
    """The GRU operator of onnxruntime; it has no training."""

    def __init__(self, x: Any, dy: Any, params: Any):
        import onnxruntime

        self.session = onnxruntime.InferenceSession(onnx_model(x.shape, params))
        self.x, self.name = x, f"y{len(params) - 1}"

    def inference(self) -> Any:
        return self.session.run([self.name], {"x": self.x})[0]


class GruXp:
    """These kernels, through the stack; inference with packed weights, a single step with a stream."""

    def __init__(self, x: Any, dy: Any, params: Any):
        import array_api_compat.numpy as xp

        from gru_xp.params import CellParams, GRUSpec
        from gru_xp.stack import Stack
        from gru_xp_cpu import numpy_layer
        from gru_xp_cpu.stream import Stream

        self.stack, self.x, self.dy = Stack(xp, numpy_layer), x, dy
        self.params = tuple(tuple(CellParams(*w) for w in directions) for directions in params)
        self.packed = tuple(tuple(map(numpy_layer.pack, directions)) for directions in self.params)
        self.stream = Stream(self.params, x.shape[1]) if len(x) == 1 and len(params[0]) == 1 else None
        D, H = len(params[0]), params[0][0][1].shape[1]
        self.h0 = np.zeros((len(params) * D, x.shape[1], H), np.float32)
        self.options: Any = {"spec": GRUSpec(), "valid": None, "resets": None, "dropout_masks": None}

    def inference(self) -> Any:
        if self.stream is not None:
            self.stream.reset()
            return self.stream.step(self.x[0])[None]
        return self.stack.inference(self.x, self.h0, self.packed, **self.options)[0]

    def training(self) -> Any:
        _, _, tapes = self.stack.forward(self.x, self.h0, self.params, save="all", **self.options)
        return self.stack.backward(tapes, self.dy, None, dropout_masks=None).x


class Public:
    """The public functions with NumPy arrays; inference with prepared parameters, a single step by `GRU.step`."""

    def __init__(self, x: Any, dy: Any, params: Any):
        import gru_xp

        self.gru_xp, self.x, self.dy = gru_xp, x, dy
        self.params = tuple(tuple(gru_xp.CellParams(*w) for w in directions) for directions in params)
        self.prepared = gru_xp.prepare(self.params)
        self.model = gru_xp.GRU.from_params(self.params)
        self.state = self.model.initial_state(x.shape[1])

    def inference(self) -> Any:
        if len(self.x) == 1 and not self.model.bidirectional:
            return self.model.step(self.x[0], self.state)[0][None]
        return self.gru_xp.gru_inference(self.x, self.prepared)[0]

    def training(self) -> Any:
        _, _, tape = self.gru_xp.gru_forward(self.x, self.params)
        return self.gru_xp.gru_backward(tape, self.dy).x


ENGINES: dict[str, Any] = {
    "torch": Torch,
    "jax": Jax,
    "onnxruntime": Onnxruntime,
    "gru_xp": GruXp,
    "numpy": Public,
    "numpy-plain": Public,
}
OURS = ("gru_xp", "numpy", "numpy-plain")


def onnx_model(shape: tuple[int, ...], params: Any) -> bytes:
    """A file of the ONNX format, opset 17, written by hand: each layer's Y (T, D, N, H) as (T, N, D*H)."""

    def varint(n: int) -> bytes:
        return bytes([n]) if n < 128 else bytes([n & 127 | 128]) + varint(n >> 7)

    def field(number: int, value: Any) -> bytes:
        if isinstance(value, int):
            return varint(number << 3) + varint(value)
        value = value.encode() if isinstance(value, str) else value
        return varint(number << 3 | 2) + varint(len(value)) + value

    def tensor(name: str, a: Any) -> bytes:
        kind = 1 if a.dtype == np.float32 else 7
        return field(8, name) + b"".join(field(1, n) for n in a.shape) + field(2, kind) + field(9, a.tobytes())

    def attribute(name: str, value: Any) -> bytes:
        if isinstance(value, int):
            return field(1, name) + field(3, value) + field(20, 2)
        if isinstance(value, str):
            return field(1, name) + field(4, value) + field(20, 3)
        return field(1, name) + b"".join(field(8, n) for n in value) + field(20, 7)

    def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> bytes:
        parts = [field(1, name) for name in inputs] + [field(2, name) for name in outputs] + [field(4, kind)]
        return b"".join(parts + [field(5, attribute(*pair)) for pair in attributes.items()])

    def value(name: str, dims: tuple[int, ...]) -> bytes:
        dimensions = b"".join(field(1, field(1, n)) for n in dims)
        return field(1, name) + field(2, field(1, field(1, 1) + field(2, dimensions)))

    def gates(a: Any) -> Any:  # r, z, n -> z, r, n
        r, z, n = np.split(a, 3)
        return np.concatenate([z, r, n])

    T, N, _ = shape
    D, H = len(params[0]), params[0][0][1].shape[1]
    body, last = b"", "x"
    for layer, directions in enumerate(params):
        names = [f"{name}{layer}" for name in "WRB"]
        stacked = [np.stack([gates(w[i]) for w in directions]) for i in (0, 1)]
        stacked.append(np.stack([np.concatenate([gates(w[2]), gates(w[3])]) for w in directions]))
        body += b"".join(field(5, tensor(name, a)) for name, a in zip(names, stacked, strict=True))
        direction = "bidirectional" if D == 2 else "forward"
        options: Any = {"hidden_size": H, "linear_before_reset": 1, "direction": direction}
        body += field(1, node("GRU", [last, *names], [f"Y{layer}"], **options))
        body += field(1, node("Transpose", [f"Y{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]))
        body += field(5, tensor(f"s{layer}", np.array([T, N, D * H])))
        body += field(1, node("Reshape", [f"t{layer}", f"s{layer}"], [f"y{layer}"]))
        last = f"y{layer}"
    graph = body + field(2, "g") + field(11, value("x", shape)) + field(12, value(last, (T, N, D * H)))
    return field(1, 8) + field(7, graph) + field(8, field(2, 17))


def peak() -> float:
    """Multiply-adds a second of the largest tile with everything in the nearest cache, on all threads."""
    import ctypes
    import threading

    from gru_xp_cpu import compiler, target, threads, tiles
    from gru_xp_cpu.code import Unit

    unit = Unit(target.current(), "float32")
    shapes, V = tiles.gates_shapes(unit), unit.lanes
    tiles.tiles(unit, "gates", shapes)
    index = (shapes.rows - 1) * max(shapes.groups)
    with (
        unit.function("many", "count *A K *B *first *dst", public=True) as c,
        c.loop(0, c.count),
    ):
        c.call_from("gates", c.integer(index), c.A, V, V * shapes.rows, c.K, c.B, 0, c.first, c.dst)
    machine = compiler.Machine(unit.target, compiler.image_of(unit))
    many, K, turns = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(machine.address("many")), 128, 40_000
    best, count = 0.0, threads.thread_count()

    def work() -> None:
        memory = np.zeros(1 << 15, np.float32)
        at = memory.ctypes.data + -memory.ctypes.data % 64
        many(turns, at, K, at + 8192, at + 65536, at + 70000 // 64 * 64)

    for _ in range(5):
        workers = [threading.Thread(target=work) for _ in range(count)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, count * turns * shapes.rows * 3 * V * K / (time.perf_counter() - start))
    return best


# ---- measuring ------------------------------------------------------------------------------------------------------


def serve(name: str) -> None:
    """An engine's process: a line with a task and a point comes in, seconds a call go out."""
    engines: dict[str, Any] = {}
    for line in sys.stdin:
        task, point = line.split()
        if task == "peak":
            print(json.dumps(peak()), flush=True)
            continue
        if point not in engines:
            engines.clear()
            engines[point] = ENGINES[name](*problem(point))
        if task == "check":
            results = [getattr(engines[point], t)() for t in TASKS if hasattr(engines[point], t)]
            print(json.dumps([np.asarray(a).ravel()[:: max(1, a.size // 1000)].tolist() for a in results]), flush=True)
            continue
        run = getattr(engines[point], task)
        run()
        run()
        times: list[float] = []
        while sum(times) < SECONDS or len(times) < 3:
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
        raise SystemExit(f"an engine ended with status {process.wait()}")
    return json.loads(line)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    found: dict[str, Any] = {
        "processor": next((x.partition(":")[2].strip() for x in lines if "model name" in x), platform.processor()),
        "vectors": next((x for x in ("avx512f", "avx2", "asimd") if any(x in line.split() for line in lines)), "?"),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
    for package in ("numpy", "torch", "jax", "onnxruntime", "llvmlite"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--points", default=",".join(POINTS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        serve(options.engine)
        return
    names, points = options.engines.split(","), options.points.split(",")
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--engine", name],
            env={**os.environ, "GRU_XP_KERNELS": "off" if name == "numpy-plain" else "auto"},
            **pipes,
        )
        for name in names
    }
    peaks = [ask(processes["gru_xp"], "peak", "step")] if "gru_xp" in names else []
    result: dict[str, Any] = {}
    for point in points:
        found = {name: ask(process, "check", point) for name, process in processes.items()}
        first = found[names[0]]
        for name, values in found.items():
            for task, got, want in zip(TASKS, values, first, strict=False):
                apart = np.max(np.abs(np.subtract(got, want))) / np.max(np.abs(want))
                assert apart < 1e-4, f"{point}, {task}: {name} differs from {names[0]} by {apart:.1e}"
        for task in TASKS:
            able = [name for name in names if len(found[name]) > TASKS.index(task)]
            times: dict[str, list[float]] = {name: [] for name in able}
            for _ in range(options.rounds):
                for name in able:
                    times[name].append(ask(processes[name], task, point))
            if peaks:
                peaks.append(ask(processes["gru_xp"], "peak", point))
            medians = {name: statistics.median(t) for name, t in times.items()}
            result[f"{point} {task}"] = {name: [medians[name], min(t), max(t)] for name, t in times.items()}
            line = f"{point:14s}{task:10s}" + "".join(f"  {name} {1e3 * t:.4g}" for name, t in medians.items())
            peers = [t for name, t in medians.items() if name not in OURS]
            if "gru_xp" in medians:
                rate = multiply_adds(point) * (3 if task == "training" else 1) / medians["gru_xp"]
                line += f"  {rate / max(peaks):.0%} of the peak"
                line += f"  {min(peers) / medians['gru_xp']:.2f} times the best peer" if peers else ""
            print(line, flush=True)
    about = {**machine(), "rounds": options.rounds, "multiply-adds a second": peaks}
    if peaks:
        print(f"multiply-add peak {2e-9 * max(peaks):.0f} GFLOP/s (least seen {2e-9 * min(peaks):.0f}); times in ms")
    if options.json:
        options.json.write_text(json.dumps({"about": about, "seconds": result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
