"""Gradients by PyTorch's and JAX's own differentiation, with gru_xp in the GRU's place and without; float32, CPU.

    python conformance/benchmarks/autodiff.py [--only module,jax] [--points step,seq] [--rounds 7] [--json F]

    module       a training step's forward and backward: torch.nn.GRU, gru_xp_torch.GRU
    jax          jit of grad: a hand-written lax.scan, gru_xp.gru
    per-sample   the gradients of each sample by itself: a loop over torch.nn.GRU, vmap(grad(...)) of gru_xp_torch.GRU

Every engine has a process of its own, rounds are interleaved, and all gradients of an engine are compared with the
first engine's before it is timed. Problems, and the engines that are not ours, are those of `side_by_side.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import POINTS, SECONDS, Jax, Torch, ask, machine, problem

POINTS["per-sample"] = (50, 32, 64, 128, 1, 1)


class TorchModule(Torch):
    """torch.nn.GRU; all gradients."""

    def gradients(self) -> list[Any]:
        self.training()
        return [self.x_grad.grad, *(p.grad for p in self.module.parameters())]


class OurModule(TorchModule):
    """gru_xp_torch.GRU in its place."""

    def __init__(self, x: Any, dy: Any, params: Any):
        import gru_xp_torch

        super().__init__(x, dy, params)
        theirs = self.module
        self.module = gru_xp_torch.GRU(
            theirs.input_size, theirs.hidden_size, theirs.num_layers, bidirectional=theirs.bidirectional
        )
        self.module.load_state_dict(theirs.state_dict())


class JaxScan(Jax):
    """The textbook GRU; all gradients."""

    def gradients(self) -> list[Any]:
        import jax

        return jax.tree.leaves(self.block(self.gradient(self.x, self.params)))


class OurJax(JaxScan):
    """gru_xp.gru in its place."""

    def __init__(self, x: Any, dy: Any, params: Any):
        import jax

        import gru_xp

        super().__init__(x, dy, params)
        self.gradient = jax.jit(jax.grad(lambda x, params: (gru_xp.gru(x, params)[0] * self.dy).sum(), (0, 1)))


class TorchLoop(Torch):
    """One sample after another through torch.nn.GRU; `vmap` cannot take it."""

    def gradients(self) -> list[Any]:
        return [self.torch.stack(column) for column in zip(*self.training(), strict=True)]

    def training(self) -> Any:
        weights, found = list(self.module.parameters()), []
        for n in range(self.x.shape[1]):
            loss = (self.module(self.x[:, n : n + 1])[0] * self.dy[:, n : n + 1]).sum()
            found.append(self.torch.autograd.grad(loss, weights))
        return found


class OurVmap(OurModule):
    """`vmap(grad(...))` over gru_xp_torch.GRU."""

    def __init__(self, x: Any, dy: Any, params: Any):
        super().__init__(x, dy, params)
        func, self.weights = self.torch.func, {k: p.detach() for k, p in self.module.named_parameters()}

        def loss(weights: Any, x: Any, dy: Any) -> Any:
            return (func.functional_call(self.module, weights, x)[0] * dy).sum()

        self.each = func.vmap(func.grad(loss), (None, 1, 1))

    def gradients(self) -> list[Any]:
        return list(self.training().values())

    def training(self) -> Any:
        return self.each(self.weights, self.x, self.dy)


#: of each comparison the peer, ours, and the points
COMPARISONS: dict[str, tuple[Any, Any, list[str]]] = {
    "module": (TorchModule, OurModule, [point for point in POINTS if point != "per-sample"]),
    "jax": (JaxScan, OurJax, [point for point in POINTS if point != "per-sample"]),
    "per-sample": (TorchLoop, OurVmap, ["per-sample"]),
}
#: how many times as fast as the peer; elsewhere 1.0, with JAX 0.95
ASKED = {
    ("module", "seq"): 2.0,
    ("module", "batch8"): 2.0,
    ("jax", "seq"): 1.25,
    ("jax", "batch8"): 1.25,
    ("per-sample", "per-sample"): 5.0,
}


def serve(engine: Any) -> None:
    """An engine's process: a line with a task and a point comes in; gradients or the seconds of a call go out."""
    known: dict[str, Any] = {}
    for line in sys.stdin:
        task, point = line.split()
        if point not in known:
            known.clear()
            known[point] = engine(*problem(point))
        if task == "check":
            found = [np.asarray(a) for a in known[point].gradients()]
            said: Any = [a.ravel()[:: max(1, a.size // 1000)].tolist() for a in found]
        else:
            times: list[float] = []
            known[point].training()
            while sum(times) < SECONDS or len(times) < 3:
                start = time.perf_counter()
                known[point].training()
                times.append(time.perf_counter() - start)
            said = statistics.median(times)
        print(json.dumps(said), flush=True)


def compare(name: str, points: list[str], rounds: int) -> dict[str, Any]:
    """Seconds of the peer and of ours at each point, and how many times as fast ours is."""
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, __file__, "--engine"]
    pair = [subprocess.Popen([*command, f"{name}:{index}"], **pipes) for index in (0, 1)]
    result = {}
    for point in points:
        for want, got in zip(*(ask(process, "check", point) for process in pair), strict=True):
            apart, largest = np.max(np.abs(np.subtract(got, want))), np.max(np.abs(want))
            assert apart <= 1e-4 * largest, f"{name}, {point}: gradients of up to {largest:.1e} differ by {apart:.1e}"
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for process, kept in zip(pair, times, strict=True):
                kept.append(ask(process, "training", point))
        peer, ours = map(statistics.median, times)
        asked = ASKED.get((name, point), 0.95 if name == "jax" else 1.0)
        result[point] = {"peer": times[0], "ours": times[1], "ratio": peer / ours, "asked": asked}
        print(
            f"{name:12s}{point:15s} peer {1e3 * peer:8.4g} ms   ours {1e3 * ours:8.4g} ms   {peer / ours:5.2f} times"
            f" as fast, asked {asked}{'' if peer / ours >= asked else '   MISSED'}",
            flush=True,
        )
    for process in pair:
        process.communicate()
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(COMPARISONS))
    parser.add_argument("--points", default=",".join(POINTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="what was measured before and is not measured now stays in the file")
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        name, _, index = options.engine.partition(":")
        serve(COMPARISONS[name][int(index)])
        return
    wanted = options.points.split(",")
    for name in options.only.split(","):
        found = compare(name, [point for point in COMPARISONS[name][2] if point in wanted], options.rounds)
        if options.json:
            kept = json.loads(options.json.read_text()) if options.json.exists() else {"seconds": {}}
            kept["about"] = machine()
            kept["seconds"].setdefault(name, {}).update(found)
            options.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
