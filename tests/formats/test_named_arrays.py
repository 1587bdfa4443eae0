"""GRUs found by the names of their arrays, in files that others wrote and anywhere in a larger model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_params
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file
from typer.testing import CliRunner

import gru_xp
from gru_xp import errors, files
from gru_xp.cli import app
from gru_xp.formats.layouts import folded, from_keras, swapped, to_keras
from gru_xp.params import CellParams, weights_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


class Larger(torch.nn.Module):
    """Several GRUs, and what else models have."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 3)
        self.encoder = torch.nn.ModuleDict({"gru": torch.nn.GRU(3, 4, 2, bidirectional=True)})
        self.decoder = torch.nn.GRU(3, 5, bias=False)
        self.cells = torch.nn.ModuleList([torch.nn.GRUCell(3, 4), torch.nn.GRUCell(4, 2, bias=False)])
        self.lstm = torch.nn.LSTM(3, 4)
        self.projected = torch.nn.LSTM(3, 4, proj_size=2)
        self.plain = torch.nn.RNN(3, 4)
        self.norm = torch.nn.BatchNorm1d(4)


def bits(params: Any) -> list[bytes]:
    return [np.asarray(a).tobytes() for a in weights_of(params)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:.*decoder. assumed. bias=False:gru_xp.errors.ConversionWarning")
def test_grus_of_a_larger_model_are_found_and_others_refused(path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Larger().to(dtype)
    save_file(model.state_dict(), path)
    found = files.contents(path)
    assert [gru.name for gru in found.grus] == ["cells.0", "cells.1", "decoder", "encoder.gru"]
    reasons = {refusal.name: refusal.reason for refusal in found.refused}
    assert reasons.keys() == {"lstm", "plain", "projected"}
    assert "an LSTM: four gates" in reasons["lstm"]
    assert "a projection" in reasons["projected"]
    assert "a plain RNN" in reasons["plain"]
    assert set(found.ignored) == {name for name in model.state_dict() if name.startswith(("embedding", "norm"))}
    assert all("batch_first=False" in gru.report.assumed for gru in found.grus)  # which such names do not say
    unsaid = [gru.report.assumed for gru in files.contents(path, batch_first=True).grus]
    assert unsaid == [(), ("bias=False",), ("bias=False",), ()]
    x = torch.randn(7, 2, 3, dtype=dtype)
    for name, module in (("decoder", model.decoder), ("gru", model.encoder["gru"])):
        own = gru_xp.load(path, name=name, backend="torch")
        for got, expected in zip(own(x), module(x), strict=True):
            assert got.dtype == dtype
            worst = float((got - expected.detach()).abs().max())
            assert worst <= 4 * 7 * torch.finfo(dtype).eps
        assert [a.tolist() for a in weights_of(own.params)] == [a.tolist() for a in module.parameters()]
    own = gru_xp.load(path, name="cells.0", backend="torch")
    expected = model.cells[0](x[0]).detach()
    torch.testing.assert_close(own(x[:1])[1][0], expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_several_grus_need_a_name(path: Path) -> None:
    save_file(Larger().state_dict(), path)
    with pytest.raises(
        errors.StructureError, match="expected name= .--name. to say which, .*'decoder', 'encoder.gru'; refused"
    ):
        gru_xp.load(path)
    with pytest.raises(errors.ConversionError, match="lstm: an LSTM: four gates; .* this one is \\(16, 4\\)"):
        gru_xp.load(path, name="lstm")
    with pytest.raises(errors.FileFormatError, match="expected a GRU called 'coder', found: 'cells.0'"):
        gru_xp.load(path, name="coder")


def test_files_without_a_gru_are_refused(path: Path) -> None:
    save_file(torch.nn.Linear(3, 4).state_dict(), path)
    with pytest.raises(errors.FileFormatError, match="expected a GRU, found: none"):
        gru_xp.load(path)
    save_file(torch.nn.LSTM(3, 4).state_dict(), path)
    with pytest.raises(errors.ConversionError, match="model.safetensors: an LSTM"):
        gru_xp.load(path)


ARRAYS = {name: a.detach().numpy() for name, a in torch.nn.GRU(3, 4, 2, bidirectional=True).state_dict().items()}
BROKEN = {
    "a weight": ({"weight_hh_l1_reverse": None}, "incomplete: expected weight_hh_l1_reverse too"),
    "one bias": ({"bias_hh_l0": None}, "incomplete: expected bias_hh_l0 too"),
    "a layer": ({name: None for name in ARRAYS if "l0" in name}, "incomplete: expected the arrays of 2 layers in 2"),
    "a direction": ({name: None for name in ARRAYS if "l0_r" in name}, "incomplete: expected the arrays of 2 layers"),
    "endless layers": ({"weight_ih_l99999": np.zeros((12, 4), "f4")}, "incomplete: expected the arrays of 100000 la"),
    "another width": (
        {"weight_ih_l1": np.zeros((12, 4), "f4")},
        r"params\[1\]\[0\].W_ih: expected \(3H, D\*H\) = \(12, 8\), got",
    ),
    "another bias": (
        {"bias_ih_l1": np.zeros(4, "f4")},
        r"params\[1\]\[0\].b_ih: expected \(3H,\) = \(12,\), got \(4,\)",
    ),
    "a scalar": ({"weight_hh_l0": np.zeros((), "f4")}, r"no GRU; .* this one is \(\)"),
    "nothing in it": ({"weight_hh_l0": np.zeros((0, 0), "f4")}, r"no GRU; .* this one is \(0, 0\)"),
    "mixed dtypes": ({"bias_ih_l1": np.zeros(12, "f8")}, "expected arrays of one of .*, got float32, float64"),
    "integers": ({name: a.astype("i4") for name, a in ARRAYS.items()}, "expected arrays of one of .*, got int32"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_set_is_refused(path: Path, what: str) -> None:
    changes, words = BROKEN[what]
    save_numpy({f"a.b.{name}": a for name, a in (ARRAYS | changes).items() if a is not None}, path)
    with pytest.raises(errors.ConversionError, match=f"model.safetensors: a.b: {words}"):
        gru_xp.load(path)


def test_folding_keeps_bits_where_nothing_is_added() -> None:
    (w,), *_ = random_params(np.random.default_rng(0), 3, 4, dtype="f4")
    got = folded(w, "float32")
    assert not got.lossless
    np.testing.assert_array_equal(got.b[:8], w.b_ih[:8] + w.b_hh[:8])
    np.testing.assert_array_equal(got.b[8:], w.b_ih[8:])
    np.testing.assert_array_equal(got.b_n, w.b_hh[8:])
    minus_zero = CellParams(w.W_ih, w.W_hh, -np.zeros(12, "f4"), np.concatenate([np.zeros(8, "f4"), w.b_hh[8:]]))
    got = folded(minus_zero, "float32")
    assert got.lossless
    assert np.signbit(got.b).all()


def test_a_folded_bfloat16_is_one() -> None:
    import ml_dtypes

    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=3000).astype(ml_dtypes.bfloat16) for _ in range(2))
    w = CellParams(np.zeros((3000, 1), "f4"), np.zeros((3000, 1000), "f4"), a.astype("f4"), b.astype("f4"))
    np.testing.assert_array_equal(folded(w, "bfloat16").b[:2000], (a + b)[:2000].astype("f4"))


def test_the_layout_of_keras() -> None:
    (w,), *_ = random_params(np.random.default_rng(0), 3, 4)
    kernel, recurrent, bias = to_keras(w, "float64", reset_after=True)
    assert (kernel.shape, recurrent.shape, bias.shape) == ((3, 12), (4, 12), (2, 12))
    np.testing.assert_array_equal(kernel[:, :4], w.W_ih[4:8].T)  # z comes first
    np.testing.assert_array_equal(bias[1, 4:8], w.b_hh[:4])
    back, reset_after = from_keras([kernel, recurrent, bias])
    assert bits(((back,),)) == bits(((w,),)) and reset_after is True
    np.testing.assert_array_equal(swapped(swapped(w.W_ih)), w.W_ih)
    one = to_keras(w, "float64", reset_after=False)[2]
    np.testing.assert_array_equal(one[:4], w.b_ih[4:8] + w.b_hh[4:8])
    assert from_keras([kernel, recurrent, one])[1] is False
    with pytest.raises(errors.ConversionError, match=r"bias: expected \(2, 3H\) = \(2, 12\) or \(3H,\) = \(12,\)"):
        from_keras([kernel, recurrent, np.zeros(24)])


def test_numbers_that_are_no_ascii(path: Path) -> None:
    """A digit of another script is a letter here, and thousands of them are no number."""
    for digits in ("\u0663" * 5000, "9" * 5000, "\u0663" * 5000 + "1"):
        save_file({f"{digits}.{name}": a for name, a in torch.nn.GRU(2, 3).state_dict().items()}, path)
        assert gru_xp.load(path).hidden_size == 3


def test_metadata_of_others_does_not_make_a_file_gru_xps(path: Path) -> None:
    """`version` and `model` are anybody's words; `format` alone makes a file ours."""
    for metadata in ({"version": "1.0", "model": "SDXL"}, {"format": "pt", "version": "1", "model": "{}"}):
        save_file(torch.nn.GRU(2, 3).state_dict(), path, metadata)
        assert gru_xp.load(path).hidden_size == 3


def test_a_message_names_twenty_refusals_at_most(path: Path) -> None:
    save_file({f"x{n}.weight_hh_l0": torch.zeros(0) for n in range(300)}, path)
    with pytest.raises(errors.FileFormatError, match="and 280 more") as caught:
        gru_xp.load(path, name="gru")
    assert len(str(caught.value)) < 4000
    said = CliRunner().invoke(app, ["inspect", str(path)])
    assert said.exit_code == 1
    assert "280 more" in said.stdout and said.stdout.count("incomplete") == 20
