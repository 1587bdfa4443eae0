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
    assert account.over_time == account.layers[1].over_time
    one = gru_xp.GRU.from_params(model.params[:1])
    first = np.abs(one(X)[0] - gru_xp.quantize(one, *kind)(X)[0])
    assert account.layers[0].largest == pytest.approx(first.max(), rel=1e-4)
    np.testing.assert_allclose(account.layers[0].over_time, first.mean(axis=(1, 2)), rtol=1e-4)
    for layer, each in zip(account.layers, (first, apart), strict=True):
        assert layer.drift == pytest.approx(each[-20:].mean() / each[:20].mean(), rel=1e-4)
    assert max(map(len, str(account).splitlines())) <= 80


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
    narrow = gru_xp.quantize(model)
    with pytest.raises(errors.ShapeError, match="narrow: expected the sizes of model"):
        gru_xp.quantization_account(model, gru_xp.quantize(gru_xp.GRU(24, 41)), X)
    with pytest.raises(errors.StructureError, match="narrow: expected the equations of model"):
        gru_xp.quantization_account(model, gru_xp.quantize(gru_xp.GRU(24, 40, reset_after=False)), X)
    with pytest.raises(errors.StructureError, match="model: expected it as it was before, in float32, got int8"):
        gru_xp.quantization_account(narrow, narrow, X)
    with pytest.raises(errors.StructureError, match="model, narrow: expected two models"):
        gru_xp.quantization_account(model, narrow.params, X)


@pytest.mark.parametrize("batch_first", [False, True])
def test_x_of_any_library_and_floating_dtype(batch_first: bool) -> None:
    model = gru_xp.GRU(24, 40, batch_first=batch_first, seed=0)
    narrow = gru_xp.quantize(model)
    expected = gru_xp.quantization_account(model, narrow, X)
    torch = pytest.importorskip("torch")
    for x in (X.astype("f8"), torch.from_numpy(X), torch.from_numpy(X).double()):
        assert gru_xp.quantization_account(model, narrow, x) == expected
    half = X.astype("f2")
    got = gru_xp.quantization_account(model, narrow, torch.from_numpy(half))
    assert got == gru_xp.quantization_account(model, narrow, half.astype("f4")) != expected


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (X.tolist(), errors.StructureError, "x: expected an array"),
        (X.astype("i4"), errors.DTypeError, "x: expected a floating-point dtype"),
        (X[:0], errors.ShapeError, "x: expected at least one step and one row"),
        (X[:, :0], errors.ShapeError, "x: expected at least one step and one row"),
        (np.where(X[5, 1, 3] == X, np.float32(np.nan), X), errors.RangeError, "x: expected finite numbers"),
        (X[..., :5], errors.ShapeError, "x: expected .*I = 24"),
        (X[0, 0], errors.ShapeError, r"x: expected \(T, N, I\)"),
    ],
)
def test_what_is_no_x_is_refused(batch_first: bool, x: object, error: type[Exception], words: str) -> None:
    """By the account, and by `quantize` where layers may be kept."""
    model = gru_xp.GRU(24, 40, batch_first=batch_first, seed=0)
    with pytest.raises(error, match=words):
        gru_xp.quantization_account(model, gru_xp.quantize(model), x)
    with pytest.raises(error, match=words):
        gru_xp.quantize(model, keep_below=0.5, x=x)


def test_an_x_that_nothing_is_measured_on_is_refused() -> None:
    with pytest.raises(errors.StructureError, match="x: expected keep_below beside it"):
        gru_xp.quantize(gru_xp.GRU(24, 40), x=X)


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


def test_the_command_says_what_was_read_and_what_the_file_does_not_keep(tmp_path: Path) -> None:
    """Which GRU of several, batch_first, a dtype that is widened; and int8 activations, which ONNX cannot have."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnx")
    first = torch.nn.GRU(24, 40, batch_first=True).bfloat16()
    torch.save({"first": first.state_dict(), "second": torch.nn.GRU(3, 4).state_dict()}, tmp_path / "two.pt")
    np.save(tmp_path / "x.npy", X.swapaxes(0, 1).astype("f8"))
    arguments = ["quantize", str(tmp_path / "two.pt"), str(tmp_path / "narrow.onnx"), "--activations", "int8"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1 and "'first', 'second'" in refused.output
    result = CliRunner().invoke(app, [*arguments, "--name", "first", "--batch-first", "--on", str(tmp_path / "x.npy")])
    assert result.exit_code == 0, result.output
    for words in ("GRU 'first', I=24", "x (N, T, I)", "same numbers as in bfloat16", "over 200 steps"):
        assert words in result.output
    assert "changed: int8 activations: there products are of float32" in result.output
    whole = gru_xp.from_framework(first.float())
    again = gru_xp.load(tmp_path / "narrow.onnx")
    np.testing.assert_array_equal(again.params[0][0].W_hh, gru_xp.quantize(whole).params[0][0].W_hh)
    assert again(X.swapaxes(0, 1))[0].shape == (2, 200, 40)
    twice = CliRunner().invoke(app, ["quantize", str(tmp_path / "narrow.onnx"), str(tmp_path / "again.onnx")])
    assert twice.exit_code == 1 and "not quantised yet, got int8 weights" in twice.output
    picture = CliRunner().invoke(app, [*arguments, "--name", "first", "--picture", str(tmp_path / "a.foo")])
    assert picture.exit_code == 1 and "a.foo: Format 'foo' is not supported" in picture.output


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
