"""Random models through every format that has files: what is said to be exact comes back bit for bit, all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gru_xp import Activation, CellParams, GRUSpec, errors, files
from gru_xp.activations import FUNCTIONS
from gru_xp.params import weights_of
from gru_xp.stored import StoredGRU

FILES = {
    "safetensors": ".safetensors",
    "torch": ".pt",
    "keras": ".keras",
    "onnx": ".onnx",
    "npz": ".npz",
    "rtneural": ".json",
    "mlx": ".safetensors",
}
DTYPES = ("float32", "float64", "float16", "bfloat16")


def drawn(rng: Any) -> StoredGRU:
    """A model of any kind: zeros of both signs, large numbers and whole numbers among its weights."""
    L, D, I, H = (int(rng.integers(1, most)) for most in (4, 3, 6, 6))
    dtype, bias, scale = str(rng.choice(DTYPES)), rng.random() < 0.7, rng.choice([0.0, 1.0, 1e4])

    def array(*shape: int) -> Any:
        a = rng.normal(scale=scale, size=shape)
        a[rng.random(shape) < 0.1] = -0.0
        if dtype == "bfloat16":
            return (a.astype("f4").view("u4") >> 16 << 16).view("f4")
        return a.astype(dtype)

    def cell(layer: int) -> CellParams:
        biases = (array(3 * H), array(3 * H)) if bias else ()
        return CellParams(array(3 * H, D * H if layer else I), array(3 * H, H), *biases)

    def activation(usual: str) -> Activation:
        made = Activation(usual if rng.random() < 0.7 else str(rng.choice(list(FUNCTIONS))))
        if made.alpha is None or rng.random() < 0.5:
            return made
        constants = [None if each is None else float(np.round(rng.normal(), 2)) for each in (made.alpha, made.beta)]
        return Activation(made.name, *constants)

    spec = GRUSpec(
        bool(rng.random() < 0.8),
        activation("sigmoid"),
        activation("tanh"),
        float(np.round(rng.uniform(0.1, 3), 2)) if rng.random() < 0.1 else None,
        bool(D == 1 and rng.random() < 0.1),
        "hold" if rng.random() < 0.2 else "zero",
    )
    params = tuple(tuple(cell(layer) for _ in range(D)) for layer in range(L))
    dropout = 0.25 if L > 1 and rng.random() < 0.3 else 0.0
    return StoredGRU(params, spec, "", dtype, bool(rng.random() < 0.5), dropout)


def told(gru: StoredGRU) -> tuple[Any, ...]:
    return gru.spec, gru.dtype, gru.batch_first, gru.dropout, len(gru.params[0])


def bits(gru: StoredGRU) -> list[Any]:
    """Of the numbers as float64, which holds all of them; `told` has the type."""
    return [(a.shape, a.astype("f8").tobytes()) for a in weights_of(gru.params)]


@pytest.mark.parametrize("name", FILES)
def test_a_report_that_says_exact_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    chosen, path = files.formats()[name], tmp_path / f"model{FILES[name]}"
    outcomes = {"refused": 0, "exact": 0, "not exact": 0}
    for seed in range(100):
        gru = drawn(np.random.default_rng(seed))
        path.unlink(missing_ok=True)
        try:
            report = chosen.write(gru, path)
        except errors.ConversionError:
            outcomes["refused"] += 1
            assert list(tmp_path.iterdir()) == []
            continue
        found = files.contents(path, batch_first=gru.batch_first if name in ("torch", "npz") else None)
        again = files.pick(found, "+".join(each.name for each in found.grus) or None, path.name)
        exact = report.exact and again.report.exact
        outcomes["exact" if exact else "not exact"] += 1
        if exact:
            assert told(again) == told(gru), (seed, str(report))
        if exact or any(note.fate == "exact" for note in report.notes):
            assert bits(again) == bits(gru) or "changed: no biases" in str(report), (seed, str(report))
    assert outcomes["exact"] > 0
    assert (outcomes["refused"] > 0) == (name != "safetensors")
