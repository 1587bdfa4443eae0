"""RTNeural's JSON, judged by its own equations written down once more; NumPy's archives; Arraymancer's arrays."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import random_params
from libraries import torch

import gru_xp
from gru_xp import errors, files
from gru_xp.arraymancer import to_arraymancer
from gru_xp.params import weights_of

T, N, I, H = 9, 3, 4, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(T, N, I))


def random_model(L: int = 1, D: int = 1, bias: bool = True, dtype: str = "f4", **options: Any) -> gru_xp.GRU:
    return gru_xp.GRU.from_params(random_params(RNG, I, H, L, D, bias, dtype=dtype), **options)


def bits(model: gru_xp.GRU) -> list[bytes]:
    return [np.asarray(a).tobytes() for a in weights_of(model.params)]


# ---- RTNeural --------------------------------------------------------------------------------------------------------


def by_rtneural(layers: Any, x: list[float]) -> list[float]:
    """One sample through the layers' `forward`: z, r, c in Keras's order, unit by unit; states stand in the layers."""
    for layer in layers:
        W, U, b = layer["weights"]
        size = layer["shape"][-1]
        h = layer.setdefault("state", [0.0] * size)

        def gate(k: int, W: Any = W, U: Any = U, b: Any = b, h: Any = h, x: Any = x) -> tuple[float, float]:
            from_input = sum(v * W[i][k] for i, v in enumerate(x)) + b[0][k]
            return from_input, sum(v * U[i][k] for i, v in enumerate(h)) + b[1][k]

        new = []
        for k in range(size):
            z = 1 / (1 + np.exp(-sum(gate(k))))
            r = 1 / (1 + np.exp(-sum(gate(k + size))))
            from_input, from_state = gate(k + 2 * size)
            new.append((1 - z) * np.tanh(from_input + r * from_state) + z * h[k])
        layer["state"] = x = new
    return x


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_rtneural_out_and_back(tmp_path: Path, dtype: str) -> None:
    model = random_model(2, dtype=dtype)
    path = tmp_path / "m.json"
    assert model.save(path).exact
    content = json.loads(path.read_text())
    assert content["in_shape"] == [None, None, I]
    y = np.array([by_rtneural(content["layers"], list(x)) for x in X[:, 0]])
    eps = np.finfo(dtype).eps
    assert np.abs(model(X.astype(dtype))[0][:, 0] - y).max() <= 8 * T * eps
    back = gru_xp.load(path)
    assert bits(back) == bits(model)
    assert back.dtype == ("float32" if dtype == "f4" else "float64")
    assert [gru.name for gru in files.contents(path).grus] == ["layers.0+layers.1"]


def test_what_else_rtneural_has(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    random_model().save(path)
    (gru,) = json.loads(path.read_text())["layers"]
    dense = {"type": "dense", "shape": [None, None, H], "weights": []}
    inner = gru | {"weights": [RNG.normal(size=(H, 15)).tolist(), *gru["weights"][1:]]}
    layers = [gru, dense, inner, inner, gru | {"type": "lstm"}, gru | {"shape": [None, 7]}]
    path.write_text(json.dumps({"in_shape": [None, I], "layers": layers}))
    found = files.contents(path)
    assert [gru.name for gru in found.grus] == ["layers.0", "layers.2+layers.3"]
    assert [(refusal.name, refusal.reason) for refusal in found.refused] == [
        ("layers.4", "an LSTM"),
        ("layers.5", "its shape says H = 7, its weights 5"),
    ]
    assert found.ignored == ("layers.1 (dense)",)


def test_a_state_dict_in_json(tmp_path: Path) -> None:
    """As RTNeural's own examples write it for `torch_helpers`."""
    path, layer = tmp_path / "m.json", torch.nn.GRU(I, H, 2)
    path.write_text(json.dumps({f"rec.{name}": a.tolist() for name, a in layer.state_dict().items()}))
    assert bits(gru_xp.load(path)) == [a.detach().numpy().tobytes() for a in layer.parameters()]


def test_what_rtneural_cannot_hold_is_reported_or_refused(tmp_path: Path) -> None:
    report = random_model(bias=False, dropout=0.5).save(tmp_path / "m.json")
    assert [note.fate for note in report.notes] == ["exact", "changed", "ignored"]
    endless = gru_xp.GRU.from_params(
        tuple((layer[0]._replace(b_ih=layer[0].b_ih * np.inf),) for layer in random_model().params)
    )
    for model, words in (
        (random_model(D=2), "two directions: RTNeural"),
        (gru_xp.GRU(I, H, reset_after=False), "reset_after=False: RTNeural's GRU"),
        (endless, "no finite number"),
    ):
        with pytest.raises(errors.ConversionError, match=words):
            model.save(tmp_path / "m.json")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "[" * 100_000, '{"layers": [3]}', '{"layers": [{"type": "gru"}]}', '{"weight_hh": [[1], [1, 2]]}']
    + [
        f'{{"layers": [{{"type": "gru", "shape": [5], "weights": [{w}]}}]}}'
        for w in ("NaN", '[["a"]]', "[[1e999]]", "[[]]")
    ],
)
def test_broken_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(text)
    with pytest.raises((errors.FileFormatError, errors.ConversionError), match=r"m\.json"):
        gru_xp.load(path)


# ---- NumPy's archives ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_npz_out_and_back(tmp_path: Path, dtype: str) -> None:
    model = random_model(2, 2, dtype=dtype)
    assert model.save(tmp_path / "m.npz").exact
    assert bits(gru_xp.load(tmp_path / "m.npz")) == bits(model)
    twin = torch.nn.GRU(I, H, 2, bidirectional=True, dtype=getattr(torch, model.dtype))
    twin.load_state_dict({name: torch.from_numpy(a) for name, a in np.load(tmp_path / "m.npz").items()})


def test_arraymancer(tmp_path: Path) -> None:
    for L in (1, 3):
        model = random_model(L)
        arrays = to_arraymancer(model.params)._asdict()
        np.savez_compressed(tmp_path / "m.npz", **arrays)
        assert bits(gru_xp.load(tmp_path / "m.npz")) == bits(model)
        assert bits(gru_xp.from_framework(arrays)) == bits(model)
    del arrays["bU3s"]
    with pytest.raises(errors.ConversionError, match="incomplete: expected bU3s too"):
        gru_xp.from_framework(arrays)


def test_arrays_by_columns_and_big_endian(tmp_path: Path) -> None:
    model = random_model()
    ((w,),) = model.params
    arrays = {"weight_ih_l0": np.asfortranarray(w.W_ih), "weight_hh_l0": w.W_hh.astype(">f4")}
    arrays |= {"bias_ih_l0": w.b_ih, "bias_hh_l0": w.b_hh, "words": np.array(["a", "b"])}
    np.savez(tmp_path / "m.npz", **arrays)
    loaded = gru_xp.load(tmp_path / "m.npz")
    assert bits(loaded) == bits(model)
    assert all(a.flags.c_contiguous for a in weights_of(loaded.params))


def test_broken_archives(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    cells = {name: RNG.normal(size=size) for name, size in {"weight_ih": (15, 4), "weight_hh": (15, 5)}.items()}
    for name, change in {
        "absurd": lambda head: head.replace(b"(15, 5)", b"(%d, 5)" % 10**17),
        "code": lambda head: head.replace(b"(15, 5)", b"exit( )"),
        "objects": lambda head: head.replace(b"'<f8'", b"'|O' "),
        "longer": lambda head: head + bytes(8),
        "shorter": lambda head: head[:-8],
        "bomb": lambda head: head + bytes(1 << 27),
    }.items():
        np.savez(path, **cells)
        with zipfile.ZipFile(path) as archive:
            entries = {info: archive.read(info) for info in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry, data in entries.items():
                archive.writestr(entry, change(data) if "hh" in entry else data)
        with pytest.raises((errors.FileFormatError, errors.ConversionError), match=r"m\.npz"):
            gru_xp.load(path)
        assert name
