"""MLX's GRU and its files, run by MLX and by gru_xp, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp import errors, files
from gru_xp.params import weights_of

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
EPS = np.finfo("f4").eps
T, N, I, H = 9, 3, 4, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(T, N, I)).astype("f4")


def assert_near(model: gru_xp.GRU, layer: Any, steps: int = T) -> None:
    """By MLX, which has the batch first."""
    expected = np.array(layer(mx.array(X.swapaxes(0, 1)))).swapaxes(0, 1)
    got = model(X)[0] if not model.batch_first else model(X.swapaxes(0, 1))[0].swapaxes(0, 1)
    assert np.abs(got - expected).max() <= 4 * steps * EPS


def bits(params: Any) -> list[bytes]:
    return [np.asarray(a).tobytes() for a in weights_of(params)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_in_and_out(tmp_path: Path, suffix: str, bias: bool) -> None:
    layer, path = nn.GRU(I, H, bias), tmp_path / f"m{suffix}"
    layer.save_weights(str(path))
    model = gru_xp.load(path)
    assert_near(model, layer)
    assert bits(gru_xp.from_framework(layer).params) == bits(model.params)
    assert bits(gru_xp.from_framework(layer.parameters()).params) == bits(model.params)
    report = model.save(tmp_path / f"back{suffix}", format="mlx")
    assert model.batch_first and report.exact
    back = nn.GRU(I, H, bias)
    back.load_weights(str(tmp_path / f"back{suffix}"))
    for name, array in layer.parameters().items():
        assert np.array(array).tobytes() == np.array(back[name]).tobytes()


def test_several_in_a_larger_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.GRU(I, H), nn.GRU(H, H), nn.GRU(H, H), nn.Linear(H, 2), nn.LSTM(2, 3))
    model.save_weights(str(tmp_path / "m.safetensors"))
    for found in (files.contents(tmp_path / "m.safetensors"), files.formats()["tree"].adopt(model)):
        assert [gru.name for gru in found.grus] == ["layers.0", "layers.1", "layers.2"]
        assert [(refusal.name, refusal.reason[:7]) for refusal in found.refused] == [("layers.4", "an LSTM")]
        assert sorted(found.ignored) == ["layers.3.bias", "layers.3.weight", "layers.4.bias"]
    name = "layers.0+layers.1+layers.2"
    assert_near(gru_xp.load(tmp_path / "m.safetensors", name=name), nn.Sequential(*model.layers[:3]), 3 * T)


def test_modules_of_their_own_are_refused() -> None:
    class Own(nn.GRU):
        def __call__(self, x: Any) -> Any:
            return x

    with pytest.raises(errors.ConversionError, match="Own may compute anything with them"):
        gru_xp.from_framework(Own(I, H))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_out_and_back(tmp_path: Path, dtype: str) -> None:
    model = gru_xp.GRU(I, H, num_layers=2, dropout=0.5, batch_first=True, dtype=dtype, seed=0, backend="torch")
    path = tmp_path / "m.safetensors"
    report = model.save(path, format="mlx")
    assert [(note.fate, note.what) for note in report.notes] == [
        ("folded", "b_ih + b_hh of the gates r and z"),
        ("ignored", "dropout=0.5"),
    ]
    there = nn.Sequential(nn.GRU(I, H), nn.GRU(H, H))
    there.load_weights(str(path))
    if dtype == "float32":
        assert_near(model, there, 2 * T)
    assert {str(a.dtype) for layer in there.layers for a in layer.parameters().values()} == {f"mlx.core.{dtype}"}
    again = gru_xp.load(path, name="layers.0+layers.1", backend="torch")
    live = gru_xp.from_framework(there, name="layers.0+layers.1", backend="torch")
    for one, two in zip(weights_of(again.params), weights_of(live.params), strict=True):
        assert one.tolist() == two.tolist()
    assert again.save(path, format="mlx").notes[0].fate == "exact"


def test_what_mlx_cannot_hold_is_not_written(tmp_path: Path) -> None:
    for options, words in (({"bidirectional": True}, "two directions"), ({"clip": 2.0}, "clip=2.0: MLX's GRU")):
        with pytest.raises(errors.ConversionError, match=words):
            gru_xp.GRU(I, H, **options).save(tmp_path / "m.safetensors", format="mlx")
    with pytest.raises(errors.ConversionError, match="NumPy's files have no such numbers"):
        gru_xp.GRU(I, H, dtype="bfloat16", backend="torch").save(tmp_path / "m.npz", format="mlx")
