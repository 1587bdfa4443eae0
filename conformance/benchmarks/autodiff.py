"""PyTorch's modules and JAX's compiled functions, with gru_xp and without; float32, CPU.

    python conformance/benchmarks/autodiff.py [--only module,jax] [--points step,seq] [--rounds 7]
        [--keep]        adds to the result file of this kind of processor: conformance/results/autodiff/KIND.json
        [--json F]      adds to another file

    module         forward and backward through torch.nn.GRU, and through gru_xp_torch.GRU
    jax            jit of grad of a hand-written lax.scan, and of gru_xp.gru
    jax-inference  jit of a hand-written lax.scan, and of gru_xp.gru
    per-sample     each sample's own gradients: a loop over torch.nn.GRU, and vmap(grad(...)) of gru_xp_torch.GRU

`gru_xp_conformance.timing` says how it is measured: all gradients are checked before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from peers import PEERS
from points import POINTS
from processors import measured_on, result_file, write_result

from gru_xp_conformance.timing import Command, Problem, Size, compare, serve

Torch, Jax = PEERS["torch"], PEERS["jax"]


class OurModule(Torch):  # type: ignore[misc, valid-type]
    """gru_xp_torch.GRU instead of torch.nn.GRU."""

    def __init__(self, problem: Problem):
        import gru_xp_torch

        super().__init__(problem)
        theirs = self.module
        self.module = gru_xp_torch.GRU(
            theirs.input_size, theirs.hidden_size, theirs.num_layers, bidirectional=theirs.bidirectional
        )
        self.module.load_state_dict(theirs.state_dict())


class Scan(Jax):  # type: ignore[misc, valid-type]
    """The hand-written scan; one step of it in the thread that calls: to wake JAX's costs 10 or 30 us, by chance."""

    def __init__(self, problem: Problem):
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", len(problem.x) > 1)
        super().__init__(problem)


class OurScan(Scan):
    """gru_xp.gru instead of the hand-written scan."""

    def __init__(self, problem: Problem):
        import jax

        import gru_xp

        super().__init__(problem)
        self.run = jax.jit(lambda x, params: gru_xp.gru(x, params)[0])
        self.gradient = jax.jit(jax.grad(lambda x, params: (gru_xp.gru(x, params)[0] * self.dy).sum(), (0, 1)))


class Loop(Torch):  # type: ignore[misc, valid-type]
    """Each sample's gradients by torch.nn.GRU, one after the other: `vmap` cannot take it."""

    def training(self) -> Any:
        weights = [weight for directions in self.module.all_weights for weight in directions]
        found = []
        for n in range(self.x.shape[1]):
            x = self.x[:, n : n + 1].clone().requires_grad_()
            loss = (self.module(x)[0] * self.dy[:, n : n + 1]).sum()
            dx, *dweights = self.torch.autograd.grad(loss, [x, *weights])
            found.append([dx[:, 0], *dweights])
        return list(zip(*found, strict=True))

    gradients = staticmethod(list)

    def to_numpy(self, gradients: Any) -> Any:
        """What can be checked: dx (T, N, I) of all samples, and the sums of the weights' gradients."""
        a = np.stack(gradients)
        return a.swapaxes(0, 1) if a.ndim == 3 and a.shape[1:] == (len(self.x), self.x.shape[2]) else a.sum(0)


class OurVmap(OurModule):
    """The same by `vmap(grad(...))` of gru_xp_torch.GRU."""

    def __init__(self, problem: Problem):
        super().__init__(problem)
        func, self.weights = self.torch.func, {name: p.detach() for name, p in self.module.named_parameters()}

        def loss(x: Any, weights: Any, dy: Any) -> Any:
            return (func.functional_call(self.module, weights, x)[0] * dy).sum()

        one = func.grad(loss, (0, 1))
        self.each = func.vmap(one, (1, None, 1))
        dx, dweights = self.each(self.x, self.weights, self.dy)
        for n in (0, self.x.shape[1] - 1):
            dx_n, dweights_n = one(self.x[:, n], self.weights, self.dy[:, n])
            assert self.torch.allclose(dx[n], dx_n, atol=1e-5)
            assert all(self.torch.allclose(dweights[name][n], dw, atol=1e-4) for name, dw in dweights_n.items())

    def training(self) -> Any:
        dx, dweights = self.each(self.x, self.weights, self.dy)
        return [dx, *dweights.values()]

    gradients, to_numpy = Loop.gradients, Loop.to_numpy


#: the peer and ours, the points, and how many times as fast ours has to be, at some points more
COMPARISONS: dict[str, tuple[Any, Any, dict[str, Size], float, dict[str, float]]] = {
    "module": (Torch, OurModule, POINTS, 1.0, {"seq": 2.0, "batch8": 2.0}),
    "jax": (Scan, OurScan, POINTS, 0.95, {"seq": 1.25, "batch8": 1.25}),
    "jax-inference": (Scan, OurScan, POINTS, 1.0, {}),
    "per-sample": (Loop, OurVmap, {"samples32": Size(50, 32, 64, 128)}, 5.0, {}),
}
WORDS = {
    "module": "`torch.nn.GRU`, `gru_xp_torch.GRU`",
    "jax": "`jax.grad` of a `lax.scan`, of `gru_xp.gru`",
    "jax-inference": "`jax.jit` of a `lax.scan`, of `gru_xp.gru`",
    "per-sample": "each sample's gradients: a loop over `torch.nn.GRU`, `vmap` of ours",
}


def measured(name: str, point: str, rounds: int) -> dict[str, Any]:
    """Seconds of the peer and of ours, and how many times as fast ours is."""
    size, least, more = COMPARISONS[name][2][point], *COMPARISONS[name][3:]
    words = [sys.executable, __file__, "--engine"]
    commands = {str(index): Command([*words, f"{name}:{index}"], {"GRU_XP_KERNELS": "auto"}) for index in (0, 1)}
    task = "inference" if name == "jax-inference" else "training"
    timings, left_out, _ = compare(commands, [size], tasks=[task], rounds=rounds)
    if left_out:
        raise SystemExit(f"{name}, {point}: {left_out}")
    peer, ours = timings
    ratio, asked = peer.median / ours.median, more.get(point, least)
    said = f"peer {1e3 * peer.median:9.4g} ms   ours {1e3 * ours.median:9.4g} ms   {ratio:6.2f} times as fast"
    print(f"{name:15s}{point:14s}{said}, asked {asked}{'' if ratio >= asked else '   MISSED'}", flush=True)
    seconds = {of: [one.median, one.least, one.most] for of, one in (("peer", peer), ("ours", ours))}
    return {"size": list(size), **seconds, "ratio": ratio, "asked": asked}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(COMPARISONS))
    parser.add_argument("--points")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--engine", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.engine:
        name, _, index = options.engine.partition(":")
        serve(COMPARISONS[name][int(index)])
        return
    kept = options.json or (result_file("autodiff") if options.keep else None)
    result = json.loads(kept.read_text()) if kept is not None and kept.exists() else {"about": {}, "seconds": {}}
    for name in options.only.split(","):
        for point in options.points.split(",") if options.points else COMPARISONS[name][2]:
            result["seconds"].setdefault(name, {})[point] = measured(name, point, options.rounds)
    result["about"] = {**measured_on(), "rounds": options.rounds}
    if kept is not None:
        write_result(kept, result)


if __name__ == "__main__":
    main()
