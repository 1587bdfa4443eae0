"""The account of quantisation, against runs and sums made by hand, and the command that prints it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import gru_xp
from gru_xp import errors
from gru_xp.cli import app

X = np.random.default_rng(0).standard_normal((200, 2, 24), dtype=np.float32)


@pytest.mark.parametrize("kind", [("int8", "float32"), ("int8", "int8"), ("bfloat16", "float32")])
def test_differences_are_those_of_the_two_models(kind: tuple[str, str]) -> None:
    model = gru_xp.GRU(24, 40, num_layers=2, bidirectional=True, seed=0)
    narrow = gru_xp.quantize(model, *kind)
    account = gru_xp.quantization_account(model, narrow, X)
    apart = np.abs(model(X)[0] - narrow(X)[0])
    assert account.layers[1].largest == pytest.approx(apart.max(), rel=1e-4)
    assert account.layers[1].mean == pytest.approx(apart.mean(), rel=1e-4)
    np.testing.assert_allclose(account.over_time, apart.mean(axis=(1, 2)), rtol=1e-4)
    one = gru_xp.GRU.from_params(model.params[:1])
    first = np.abs(one(X)[0] - gru_xp.quantize(one, *kind)(X)[0])
    assert account.layers[0].largest == pytest.approx(first.max(), rel=1e-4)


def test_sizes_to_the_byte() -> None:
    model = gru_xp.GRU(24, 40, seed=0)
    rows, weights = 120, 120 * (24 + 40)
    for kind, after in (("int8", weights + 2 * 4 * rows), ("float16", 2 * weights)):
        account = gru_xp.quantization_account(model, gru_xp.quantize(model, kind), X)
        assert account.bytes_before == 4 * weights + 2 * 4 * rows
        assert account.bytes_after == after + 2 * 4 * rows


def test_the_row_that_loses_most_is_named() -> None:
    w = gru_xp.GRU(24, 40, seed=0).params[0][0]
    W = np.array(w.W_hh)
    W[40 + 7, 0], W[40 + 7, 1:] = 1.0, 0.001  # of gate z, unit 7: one large weight leaves nothing of the others
    model = gru_xp.GRU.from_params(((w._replace(W_hh=W),),))
    row = gru_xp.quantization_account(model, gru_xp.quantize(model), X).rows[0]
    assert (row.matrix, row.gate, row.unit) == ("W_hh", "z", 7)
    assert row.loss == pytest.approx(np.sqrt(39) * 1e-3 / np.sqrt(1 + 39e-6), rel=1e-3)


def test_batch_first() -> None:
    model = gru_xp.GRU(24, 40, batch_first=True, seed=0)
    account = gru_xp.quantization_account(model, gru_xp.quantize(model), X.swapaxes(0, 1))
    assert len(account.over_time) == 200


def test_what_is_no_pair_of_a_model_and_its_narrow_self_is_refused() -> None:
    model = gru_xp.GRU(24, 40, seed=0)
    with pytest.raises(errors.StructureError, match="narrow: expected what gru_xp.quantize"):
        gru_xp.quantization_account(model, model, X)
    with pytest.raises(errors.ShapeError, match="narrow: expected the sizes of model"):
        gru_xp.quantization_account(model, gru_xp.quantize(gru_xp.GRU(24, 41)), X)


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model, whole, narrow = gru_xp.GRU(24, 40, seed=0), tmp_path / "whole.safetensors", tmp_path / "narrow.safetensors"
    model.save(whole)
    np.save(tmp_path / "x.npy", X)
    arguments = [whole, narrow, "--activations", "int8", "--on", tmp_path / "x.npy", "--picture", tmp_path / "a.png"]
    result = CliRunner().invoke(app, ["quantize", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "times smaller" in result.output
    assert f"{narrow.stat().st_size:,} bytes" in result.output
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    np.testing.assert_array_equal(gru_xp.load(narrow)(X)[0], gru_xp.quantize(model, "int8", "int8")(X)[0])


def test_the_command_leaves_out_layers_that_lose_more(tmp_path: Path) -> None:
    low, high = gru_xp.GRU(24, 40, num_layers=2, seed=0).params
    model = gru_xp.GRU.from_params((low, (high[0]._replace(W_ih=10 * high[0].W_ih),)))
    model.save(tmp_path / "model.safetensors")
    np.save(tmp_path / "x.npy", X)
    arguments = [
        "quantize",
        tmp_path / "model.safetensors",
        tmp_path / "narrow.safetensors",
        "--on",
        tmp_path / "x.npy",
    ]
    result = CliRunner().invoke(app, [*map(str, arguments), "--keep-below", "1e-2"])
    assert result.exit_code == 0, result.output
    assert "int8 weights, layer 1 in float32: " in result.output
    again = gru_xp.load(tmp_path / "narrow.safetensors").params
    np.testing.assert_array_equal(again[1][0].W_ih, model.params[1][0].W_ih)
    assert not np.array_equal(again[0][0].W_ih, model.params[0][0].W_ih)
    refused = CliRunner().invoke(app, [*map(str, arguments), "--keep-below", "1e-9"])
    assert refused.exit_code == 1 and "nothing would be quantised" in refused.output
