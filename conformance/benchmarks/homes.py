"""The frameworks' own GRU layers and gru_xp's in their place, with the same weights; float32, CPU, batch first.

    python conformance/benchmarks/homes.py [--only nnx,linen,equinox,keras-torch,keras-jax] [--rounds 7]
        [--keep]        adds to the result file of this kind of processor, conformance/results/homes/KIND.json, and
                        writes the table of docs/flax-and-equinox.md from it

    inference   the layer, compiled by `jax.jit`; Keras on PyTorch as it is, without gradients
    training    the gradients of a sum of the outputs for the parameters

Each framework runs in a separate process. Both layers get the same arrays, have to agree, and are timed in turns.
Equinox has no layer: there it is `jax.vmap` of `jax.lax.scan` over its cell.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from processors import measured_on, result_file, write_result

from gru_xp_conformance.report import put_between
from gru_xp_conformance.timing import Size

POINTS = {"one row": Size(100, 1, 64, 96), "small batch": Size(100, 8, 64, 128), "batch": Size(50, 64, 128, 256)}
PAGE = Path(__file__).parents[2] / "docs" / "flax-and-equinox.md"
WORDS = {
    "nnx": "Flax NNX's `RNN`",
    "linen": "Flax linen's `RNN`",
    "equinox": "Equinox's cell in `lax.scan`",
    "keras-torch": "Keras's `GRU` on PyTorch",
    "keras-jax": "Keras's `GRU` on JAX",
}
Run = Callable[[], Any]
Runs = tuple[Run, Run]  # inference, training


# ---- the homes: theirs and ours -------------------------------------------------------------------------------------


def compiled(apply: Callable[[Any, Any], Any], params: Any, x: Any) -> Runs:
    """The runs of a function of parameters and x in JAX."""
    import jax
    import jax.numpy as jnp

    x = jnp.asarray(x)
    run = jax.jit(apply)
    gradients = jax.jit(jax.grad(lambda params, x: jnp.sum(jnp.sin(apply(params, x)))))
    return (
        lambda: jax.block_until_ready(run(params, x)),
        lambda: jax.tree.leaves(jax.block_until_ready(gradients(params, x))),
    )


def nnx(size: Size, x: Any) -> tuple[Runs, Runs]:
    from flax import nnx

    import gru_xp_flax.nnx

    cell = nnx.GRUCell(size.I, size.H, rngs=nnx.Rngs(0))
    found = []
    for kind in (nnx.RNN, gru_xp_flax.nnx.RNN):
        graph, params, rest = nnx.split(kind(cell), nnx.Param, ...)
        whole = partial(nnx.merge, graph, copy=True)
        found.append(compiled(lambda params, x, whole=whole, rest=rest: whole(params, rest)(x), params, x))
    return found[0], found[1]


def linen(size: Size, x: Any) -> tuple[Runs, Runs]:
    import jax
    from flax import linen

    import gru_xp_flax.linen

    theirs, ours = (kind(linen.GRUCell(size.H)) for kind in (linen.RNN, gru_xp_flax.linen.RNN))
    variables = theirs.init(jax.random.key(0), x)
    return compiled(theirs.apply, variables, x), compiled(ours.apply, variables, x)


def equinox(size: Size, x: Any) -> tuple[Runs, Runs]:
    import equinox
    import jax
    import jax.numpy as jnp

    import gru_xp_equinox

    layer = gru_xp_equinox.RNN(equinox.nn.GRUCell(size.I, size.H, key=jax.random.key(0)))

    def scan(layer: Any, x: Any) -> Any:
        return jax.vmap(lambda x: jax.lax.scan(lambda h, x: (layer.cell(x, h),) * 2, jnp.zeros(size.H), x)[1])(x)

    return compiled(scan, layer, x), compiled(lambda layer, x: jax.vmap(layer)(x)[1], layer, x)


def keras(size: Size, x: Any) -> tuple[Runs, Runs]:
    import keras

    import gru_xp_keras

    layers = [kind(size.H, return_sequences=True) for kind in (keras.layers.GRU, gru_xp_keras.GRU)]
    for layer in layers:
        layer.build(x.shape)
        layer.set_weights(layers[0].get_weights())
    if keras.backend.backend() == "jax":
        theirs, ours = (compiled(stateless(layer), [v.value for v in layer.trainable_variables], x) for layer in layers)
    else:
        theirs, ours = (on_torch(layer, x) for layer in layers)
    return theirs, ours


def stateless(layer: Any) -> Callable[[Any, Any], Any]:
    others = [variable.value for variable in layer.non_trainable_variables]
    return lambda variables, x: layer.stateless_call(variables, others, x)[0]


def on_torch(layer: Any, x: Any) -> Runs:
    import torch

    tensor = torch.from_numpy(x)

    def inference() -> Any:
        with torch.no_grad():
            return layer(tensor)

    def training() -> Any:
        layer.zero_grad()
        torch.sin(layer(tensor)).sum().backward()
        return [variable.value.grad for variable in layer.weights]

    return inference, training


HOMES = {"nnx": nnx, "linen": linen, "equinox": equinox, "keras-torch": keras, "keras-jax": keras}


# ---- measuring ------------------------------------------------------------------------------------------------------


def measure(name: str, rounds: int) -> dict[str, Any]:
    """For each point and task the milliseconds of theirs and of ours, and how many times as fast ours is."""
    result: dict[str, Any] = {}
    for point, size in POINTS.items():
        x = np.random.default_rng(0).normal(size=(size.N, size.T, size.I)).astype("f4")
        both = HOMES[name](size, x)
        for task, runs in zip(("inference", "training"), zip(*both, strict=True), strict=True):
            for a, b in zip(*(run() if task == "training" else [run()] for run in runs), strict=True):
                a, b = np.asarray(a), np.asarray(b)
                assert np.abs(a - b).max() <= 1e-4 * max(1.0, np.abs(a).max()), (name, point, task)
            turns = [[timed(run) for run in runs] for _ in range(rounds)]
            theirs, ours = (1e3 * statistics.median(times) for times in zip(*turns, strict=True))
            found = {"theirs": theirs, "ours": ours, "ratio": theirs / ours}
            result.setdefault(point, {"size": list(size)})[task] = {key: float(f"{a:.4g}") for key, a in found.items()}
            print(
                f"{name:12s}{point:12s}{task:10s} {theirs:9.4g} ms, ours {ours:9.4g} ms: {theirs / ours:.2f}",
                flush=True,
            )
    return result


def timed(run: Run) -> float:
    """The median of the calls of 0.15 seconds."""
    times: list[float] = []
    end = time.perf_counter() + 0.15
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def table(homes: dict[str, Any]) -> str:
    """How many times as fast ours is, in inference and in training."""
    columns = [f"{point}: {', '.join(map(str, size[:4]))}" for point, size in POINTS.items()]
    rows = ["| instead of | " + " | ".join(columns) + " |", "|---|" + "--:|" * len(columns)]
    for name, points in homes.items():
        cells = [f"{points[p]['inference']['ratio']:.1f}, {points[p]['training']['ratio']:.1f}" for p in POINTS]
        rows.append(f"| {WORDS[name]} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(HOMES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--home", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.home:
        name, answers = options.home, os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        print(json.dumps(measure(name, options.rounds)), file=answers)
        return
    kept = result_file("homes")
    result = json.loads(kept.read_text()) if kept.exists() else {"about": {}, "homes": {}}
    for name in options.only.split(","):
        command = [sys.executable, __file__, "--home", name, "--rounds", str(options.rounds)]
        environment = {**os.environ, "KERAS_BACKEND": name.partition("-")[2] or "jax"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        result["homes"][name] = json.loads(done.stdout)
    result["about"] = {**measured_on(), "rounds": options.rounds}
    if options.keep:
        write_result(kept, result)
        put_between(PAGE, "homes", table(result["homes"]))


if __name__ == "__main__":
    main()
