"""Keras's GRU as a loop in float64 over Keras's own arrays, and what tf.keras itself saved and computed."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp import GRU
from gru_xp.stored import StoredGRU

DATA = Path(__file__).parent.parent / "formats" / "data"
VERSIONS = ("2.12", "2.15")

ACTIVATIONS: dict[str, Any] = {
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "hard_sigmoid": lambda a: np.clip(0.2 * a + 0.5, 0, 1),  # before Keras 3
    "hard_sigmoid 3": lambda a: np.clip(a + 3, 0, 6) / 6,
    "tanh": np.tanh,
    "relu": lambda a: np.maximum(a, 0),
    "linear": lambda a: a,
}


def keras_loop(
    x: Any,
    arrays: Any,
    gates: str = "sigmoid",
    candidate: str = "tanh",
    reset_after: bool = True,
    backwards: bool = False,
) -> Any:
    """y (N, T, H) in the order of x, from x (N, T, I), kernel (I, 3H), recurrent_kernel (H, 3H) and maybe a bias."""
    kernel, recurrent, *bias = (np.asarray(a, "f8") for a in arrays)
    H = len(recurrent)
    b, c = (bias[0] if reset_after else (bias[0], np.zeros(3 * H))) if bias else np.zeros((2, 3 * H))
    f, g = ACTIVATIONS[gates], ACTIVATIONS[candidate]
    h, ys = np.zeros((len(x), H)), []
    for x_t in np.moveaxis(np.asarray(x, "f8"), 1, 0)[:: -1 if backwards else 1]:
        a = x_t @ kernel + b
        u = h @ recurrent + c
        z, r = f(a[:, :H] + u[:, :H]), f(a[:, H : 2 * H] + u[:, H : 2 * H])
        n = g(a[:, 2 * H :] + (r * u[:, 2 * H :] if reset_after else (r * h) @ recurrent[:, 2 * H :]))
        h = z * h + (1 - z) * n
        ys.append(h)
    return np.stack(ys[:: -1 if backwards else 1], axis=1)


def unpacked(version: str, folder: Path) -> Path:
    """What tf.keras of that version saved, in a folder; expected.npz has what it computes."""
    with zipfile.ZipFile(DATA / f"keras-{version}.zip") as archive:
        archive.extractall(folder)
    return folder


def outputs(gru: StoredGRU, x: Any, **options: Any) -> tuple[Any, Any]:
    """y and h_n of a GRU that was read, computed by gru_xp."""
    model = GRU.from_params(gru.params, spec=gru.spec, batch_first=gru.batch_first)
    y, h_n = model(np.asarray(x), **options)
    return np.asarray(y), np.asarray(h_n)


def assert_near(got: Any, expected: Any, steps: int = 10) -> None:
    expected = np.asarray(expected)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 4 * steps * np.finfo("f4").eps * max(1.0, np.abs(expected).max())
