"""PyTorch's quantised GRUs: the numbers are those of `dequantize`, and the report says what is not reproduced."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gru_xp
from gru_xp import errors, files
from gru_xp.narrow import integers
from gru_xp.params import weights_of
from gru_xp.stored import StoredGRU

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]
T, N, I, H = 7, 3, 4, 5
EPS = np.finfo("f4").eps
DYNAMIC = torch.ao.quantization.default_dynamic_qconfig
KINDS: dict[str, Any] = {
    "int8": DYNAMIC,
    "int8 by rows": torch.ao.quantization.per_channel_dynamic_qconfig,
    "float16": torch.ao.quantization.float16_dynamic_qconfig,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "two layers": {"num_layers": 2},
    "two directions": {"bidirectional": True},
    "all": {"num_layers": 3, "bidirectional": True, "batch_first": True, "dropout": 0.25},
}


class Net(torch.nn.Module):
    def __init__(self, **options: Any):
        super().__init__()
        self.enc = torch.nn.Sequential(torch.nn.GRU(I, H, **options))
        self.cell = torch.nn.GRUCell(I, H)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.enc(x)[0], self.cell(x[0])


def quantised(kind: str, what: str) -> Any:
    torch.manual_seed(0)
    net = Net(**OPTIONS[what]).eval()
    return torch.ao.quantization.quantize_dynamic(net, dict.fromkeys((torch.nn.GRU, torch.nn.GRUCell), KINDS[kind]))


WRITERS: dict[str, Callable[[Any, Path], Any]] = {
    "state_dict": lambda net, path: torch.save(net.state_dict(), path),
    "state_dict before 1.6": lambda net, path: torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False),
    "module": torch.save,
    "script": lambda net, path: torch.jit.save(torch.jit.script(net), path),
    "weights": lambda net, path: torch.save(weights(net), path),
    "live": lambda net, path: None,
}


def weights(net: Any) -> dict[str, Any]:
    """As the refusals say that they can be saved."""
    parts = {"enc.0.": net.enc[0], "cell.": net.cell}
    return {f"{name}{k}": a for name, m in parts.items() for k, a in {**m.get_weight(), **m.get_bias()}.items()}


def found_in(net: Any, how: str, path: Path) -> dict[str, StoredGRU]:
    WRITERS[how](net, path)
    found = files.formats()["torch"].adopt(net) if how == "live" else files.contents(path)
    assert not found.refused
    return {gru.name: gru for gru in found.grus}


@pytest.mark.parametrize("what", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", WRITERS)
def test_the_numbers_are_those_that_pytorch_dequantises(how: str, kind: str, what: str, tmp_path: Path) -> None:
    net = quantised(kind, what)
    grus = found_in(net, how, tmp_path / "m.pt")
    assert grus.keys() == {"enc.0", "cell"}
    for name, module in (("enc.0", net.enc[0]), ("cell", net.cell)):
        arrays = {**module.get_weight(), **module.get_bias()}
        layers, ways = getattr(module, "num_layers", 1), 1 + getattr(module, "bidirectional", False)
        params = grus[name].params
        assert (len(params), len(params[0])) == (layers, ways)
        for layer, directions in enumerate(params):
            for d, w in enumerate(directions):
                end = "" if name == "cell" else f"_l{layer}{'_reverse' if d else ''}"
                for field, own in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), w, strict=True):
                    right = arrays[f"{field}{end}"]
                    right = right.dequantize() if right.is_quantized else right
                    assert own.dtype == np.float32 and np.array_equal(own, right.detach().numpy())
        if "int8" in kind:
            assert_stored_as_there(grus[name], arrays)
        said = [note.what for note in grus[name].report.notes if note.fate == "changed"]
        assert said == (["the quantised products"] if "int8" in kind else [])
        assert not grus[name].report.exact or "int8" not in kind
    if how in ("module", "script", "live"):
        assert (grus["enc.0"].batch_first, grus["enc.0"].dropout) == (net.enc[0].batch_first, net.enc[0].dropout)


def assert_stored_as_there(gru: StoredGRU, arrays: dict[str, Any]) -> None:
    """With PyTorch's integers and its scales, of a matrix or of each row."""
    assert gru.narrow is not None and str(gru.narrow) == "int8 weights"
    for layer, directions in enumerate(gru.params):
        for d, w in enumerate(directions):
            for field, W, scale in zip(("weight_ih", "weight_hh"), w[:2], gru.narrow.scales[layer][d][:2], strict=True):
                right = arrays.get(f"{field}_l{layer}{'_reverse' if d else ''}", arrays.get(field))
                of_rows = right.qscheme() == torch.per_channel_affine
                scales = right.q_per_channel_scales().float() if of_rows else torch.full((3 * H,), right.q_scale())
                np.testing.assert_array_equal(scale, scales.numpy())
                np.testing.assert_array_equal(integers(W, scale, np), right.int_repr().numpy())


def test_int8_weights_stay_int8_in_our_files(tmp_path: Path) -> None:
    """With -128, too, which PyTorch's observers make of some of the least weights."""
    net = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.GRU(I, 64)), {torch.nn.GRU: DYNAMIC})
    arrays = {**net[0].get_weight(), **net[0].get_bias()}
    W = arrays["weight_hh_l0"]
    q = W.int_repr()
    q[0, 0] = -128
    arrays["weight_hh_l0"] = torch._make_per_tensor_quantized_tensor(q, W.q_scale(), 0)
    torch.save(arrays, tmp_path / "m.pt")
    with pytest.warns(errors.ConversionWarning, match="the quantised products"):
        model = gru_xp.load(tmp_path / "m.pt")
    x = np.random.default_rng(0).normal(size=(T, N, I)).astype("f4")
    for name in ("m.safetensors", "m.onnx"):
        model.save(tmp_path / name)
        again = gru_xp.load(tmp_path / name)
        assert repr(again) == repr(model) and "weights='int8'" in repr(model)
        np.testing.assert_array_equal(again(x)[0], model(x)[0])
    for backend in ("torch", "jax", "array_api_strict"):
        np.testing.assert_allclose(model(x, backend=backend)[0], model(x)[0], atol=1e-6)
    with pytest.warns(errors.ConversionWarning, match="the quantised products"):
        wide = gru_xp.load(tmp_path / "m.pt", dtype="float32")
    np.testing.assert_allclose(wide(x)[0], model(x)[0], atol=1e-6)
    wide.save(tmp_path / "m.npz")


def test_a_zero_point_is_multiplied_out(tmp_path: Path) -> None:
    """No observer of weights of PyTorch has one; a file may."""
    net = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.GRU(I, H)), {torch.nn.GRU: DYNAMIC})
    arrays = {**net[0].get_weight(), **net[0].get_bias()}
    W = arrays["weight_ih_l0"]
    arrays["weight_ih_l0"] = torch._make_per_tensor_quantized_tensor(W.int_repr(), W.q_scale(), 3)
    torch.save(arrays, tmp_path / "m.pt")
    (gru,) = files.contents(tmp_path / "m.pt").grus
    assert gru.narrow is None
    np.testing.assert_array_equal(gru.params[0][0].W_ih, arrays["weight_ih_l0"].dequantize().numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_a_gru_with_these_weights(kind: str) -> None:
    net = quantised(kind, "all")
    plain = Net(**OPTIONS["all"]).eval()
    plain.load_state_dict({name: a.dequantize() if a.is_quantized else a for name, a in weights(net).items()})
    x = torch.randn(N, T, I)
    with torch.no_grad():
        right, theirs = plain.enc(x)[0].numpy(), net.enc(x)[0].numpy()
    if kind == "float16":
        model = gru_xp.from_framework(net, name="enc.0")
        assert np.abs(right - theirs).max() <= 4 * T * EPS  # so PyTorch rounds nothing else
    else:
        with pytest.warns(
            errors.ConversionWarning, match="the quantised products: .* rounds x and the state to 8 bits"
        ):
            model = gru_xp.from_framework(net, name="enc.0")
        assert np.abs(right - theirs).max() > 100 * T * EPS
    assert np.abs(model(x.numpy())[0] - right).max() <= 4 * T * EPS


def test_two_cells_that_may_be_layers_or_directions_are_refused(tmp_path: Path) -> None:
    """Where I is H, a state_dict does not say it, but the module does, and so do the arrays that the message names."""
    for options in ({"num_layers": 2}, {"bidirectional": True}):
        net = torch.nn.Sequential(torch.nn.GRU(H, H, **options))
        net = torch.ao.quantization.quantize_dynamic(net, {torch.nn.GRU: DYNAMIC})
        path, gru = tmp_path / "m.pt", net[0]
        torch.save(net.state_dict(), path)
        with pytest.raises(errors.ConversionError, match="two layers or two directions; in PyTorch save its numbers"):
            gru_xp.load(path)
        torch.save(net, path)
        (found,) = files.contents(path).grus
        torch.save({**gru.get_weight(), **gru.get_bias()}, path)
        (again,) = files.contents(path).grus
        for own, other in zip(weights_of(found.params), weights_of(again.params), strict=True):
            assert np.array_equal(own, other)
        assert len(found.params) == len(again.params) == options.get("num_layers", 1)


def test_what_is_packed_and_not_read_says_what_to_do(tmp_path: Path) -> None:
    net = quantised("int8", "two layers")
    torch.jit.save(torch.jit.freeze(torch.jit.script(net)), tmp_path / "m.pt")
    for read in (lambda: gru_xp.load(tmp_path / "m.pt"), lambda: gru_xp.from_framework(net.state_dict(), name="cell")):
        with pytest.raises(errors.ConversionError, match=r"a quantised layer, packed .*\*\*gru\.get_weight\(\)"):
            read()


def test_a_quantised_lstm_is_refused_as_one(tmp_path: Path) -> None:
    net = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(torch.nn.LSTM(I, H)), {torch.nn.LSTM})
    for saved in (net, net.state_dict()):
        torch.save(saved, tmp_path / "m.pt")
        with pytest.raises(errors.ConversionError, match="an LSTM: four gates"):
            gru_xp.load(tmp_path / "m.pt")


def test_other_layers_that_are_quantised_are_in_nobodys_way(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.GRU(I, H), torch.nn.Linear(H, 2))
    linear = torch.ao.quantization.quantize_dynamic(copy.deepcopy(net), {torch.nn.Linear})
    for saved in (linear, linear.state_dict()):
        torch.save(saved, tmp_path / "m.pt")
        model = gru_xp.load(tmp_path / "m.pt")
        for own, right in zip(weights_of(model.params), net[0].parameters(), strict=True):
            assert np.array_equal(own, right.detach().numpy())


def test_read_without_pytorch(tmp_path: Path) -> None:
    torch.save(quantised("int8", "all"), tmp_path / "m.pt")
    code = "import sys; sys.modules['torch'] = None; import gru_xp; print(gru_xp.load(sys.argv[1], name='enc'))"
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path / "m.pt"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("GRU(4, 5, num_layers=3, batch_first=True, dropout=0.25, bidirectional=True")
