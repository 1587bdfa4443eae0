"""What a source does not say: the order of x's axes and the type, given by the caller, or assumed and reported."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from helpers import random_params
from safetensors.torch import save_file
from typer.testing import CliRunner

import gru_xp
from gru_xp import errors, files
from gru_xp.cli import app
from gru_xp.params import weights_of
from gru_xp.stored import StoredGRU, rounded_to_bfloat16, with_dtype
from gru_xp.verify import side_of, verify

N, T, I, H = 3, 7, 4, 5


@pytest.fixture
def layer() -> torch.nn.GRU:
    torch.manual_seed(0)
    return torch.nn.GRU(I, H, 2, batch_first=True)


def rows(layer: torch.nn.GRU) -> tuple[Any, Any]:
    x = torch.randn(N, T, I)
    return x.numpy(), layer(x)[0].detach().numpy()


@pytest.fixture(params=["layer.pt", "layer.npz", "a state_dict"])
def source(request: pytest.FixtureRequest, tmp_path: Path, layer: torch.nn.GRU) -> Any:
    """What says nothing of the order of axes."""
    path = tmp_path / request.param
    if path.suffix == ".pt":
        torch.save(layer.state_dict(), path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: array.numpy() for name, array in layer.state_dict().items()})
    else:
        return layer.state_dict()
    return path


def model_of(source: Any, **options: Any) -> gru_xp.GRU:
    return gru_xp.load(source, **options) if isinstance(source, Path) else gru_xp.from_framework(source, **options)


def test_an_order_of_axes_that_nothing_says_is_assumed_and_reported(source: Any) -> None:
    model = model_of(source)
    assert model.report is not None and not model.batch_first
    assert model.report.assumed == ("batch_first=False",) and not model.report.exact
    assert "assumed: batch_first=False: " in str(model.report) and "(--batch-first)" in str(model.report)


def test_an_order_of_axes_that_the_caller_says_is_used(source: Any, layer: torch.nn.GRU) -> None:
    x, y = rows(layer)
    model = model_of(source, batch_first=True)
    assert model.report is not None and model.report.assumed == ()
    np.testing.assert_allclose(model(x)[0], y, atol=1e-6)
    other = model_of(source, batch_first=False)
    assert not other.batch_first and other.report is not None and other.report.assumed == ()


@pytest.mark.parametrize("name", ["m.safetensors", "m.onnx", "m.keras", "m.pt", "live"])
def test_an_argument_that_contradicts_the_source_names_both(name: str, tmp_path: Path, layer: torch.nn.GRU) -> None:
    path = tmp_path / name
    if name == "m.pt":
        torch.save(layer, path)
    elif name != "live":
        gru_xp.GRU(I, H, batch_first=True).save(path)
    thing = layer if name == "live" else path
    read = gru_xp.from_framework if name == "live" else gru_xp.load
    assert read(thing, batch_first=True).batch_first and read(thing).batch_first
    with pytest.raises(errors.ConversionError, match=r"batch_first: expected True, which .* says, got False"):
        read(thing, batch_first=False)


def test_the_command_line_takes_and_prints_the_order_of_axes(tmp_path: Path, layer: torch.nn.GRU) -> None:
    x, y = rows(layer)
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    np.save(tmp_path / "x.npy", x)
    paths = [str(tmp_path / name) for name in ("m.pt", "x.npy", "y.npy")]
    assumed = "assumed: batch_first=False: what was read does not say it"

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.output

    run = ["run", *paths[:2], "--output", paths[2]]
    assert assumed in said(*run)
    assert np.abs(np.load(paths[2]) - y).max() > 0.1  # which no error could tell
    assert assumed not in said(*run, "--batch-first") and assumed not in said(*run, "--no-batch-first")
    said(*run, "--batch-first")
    np.testing.assert_allclose(np.load(paths[2]), y, atol=1e-6)
    assert assumed in said("inspect", paths[0]) and assumed not in said("inspect", paths[0], "--batch-first")
    for command, target in (("convert", "m.onnx"), ("convert", "m.keras"), ("export", "written.py")):
        arguments = [command, paths[0], str(tmp_path / target), *(["--numpy"] if command == "export" else [])]
        assert assumed in said(*arguments)
        assert assumed not in said(*arguments, "--batch-first")
    assert gru_xp.load(tmp_path / "m.onnx").batch_first and gru_xp.load(tmp_path / "m.keras").batch_first


def test_verify_reads_its_input_as_the_caller_says(tmp_path: Path, layer: torch.nn.GRU) -> None:
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    model = gru_xp.load(tmp_path / "m.pt", batch_first=True)
    model.save(tmp_path / "m.onnx")
    sides = [side_of(label, tmp_path / f"m.{end}", batch_first=True) for label, end in (("A", "pt"), ("B", "onnx"))]
    assert verify(*sides).agrees
    with pytest.raises(errors.ConversionError, match="batch_first"):
        side_of("B", tmp_path / "m.onnx", batch_first=False)
    np.save(tmp_path / "x.npy", rows(layer)[0][:, :, :])
    command = ["verify", str(tmp_path / "m.pt"), str(tmp_path / "m.onnx"), "--input", str(tmp_path / "x.npy")]
    result = CliRunner().invoke(app, [*command, "--batch-first"])
    assert result.exit_code == 0, result.output


# ---- types -----------------------------------------------------------------------------------------------------------


def stored(dtype: str, seed: int = 0) -> StoredGRU:
    return StoredGRU(random_params(np.random.default_rng(seed), I, H, dtype=dtype), dtype=dtype, h0=None)


@pytest.mark.parametrize("source", [np.float32, np.float64])
def test_rounding_to_bfloat16_is_that_of_ml_dtypes(source: Any) -> None:
    rng = np.random.default_rng(0)
    many = (rng.normal(size=20_000) * 10.0 ** rng.integers(-44, 38, 20_000)).astype(source)
    half = (np.arange(0x3F80, 0x4080, dtype="u4") << 16 | 0x8000).view("f4")  # ties
    near = np.nextafter(half.astype(source), source(0)), np.nextafter(half.astype(source), source(9))
    odd = np.array([0.0, -0.0, math.inf, -math.inf, math.nan, 3.3895313892515355e38], source)
    for values in (many, half.astype(source), *near, odd):
        got, expected = rounded_to_bfloat16(values), values.astype(ml_dtypes.bfloat16)
        if source is np.float64:  # ml_dtypes goes by way of float32, so it is asked about what has one answer
            expected = _nearest(values)
        np.testing.assert_array_equal(got, expected.astype("f4"))
        assert (np.signbit(got) == np.signbit(values))[~np.isnan(values)].all()


@np.errstate(all="ignore")
def _nearest(values: Any) -> Any:
    """By trying the neighbours: the nearer of two, or the even one."""
    middle = values.astype("f4").view("u4") >> 16 << 16
    tried = np.stack([(middle + step).astype("u4").view("f4") for step in (np.uint32(0), np.uint32(0x10000))])
    away = np.abs(tried.astype(np.longdouble) - values.astype(np.longdouble))
    odd = tried.view("u4") >> 16 & 1
    second = (away[1] < away[0]) | ((away[1] == away[0]) & (odd[1] == 0))
    chosen = np.where(second, tried[1], tried[0])
    return np.where(np.isfinite(values), chosen, values.astype("f4"))


@pytest.mark.parametrize(("narrow", "wide"), [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float64")])
def test_a_wider_type_holds_the_same_numbers(narrow: str, wide: str, tmp_path: Path) -> None:
    layer = torch.nn.GRU(I, H).to(getattr(torch, narrow))
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    model = gru_xp.load(tmp_path / "m.pt", dtype=wide, batch_first=False)
    assert model.dtype == wide and model.report is not None and model.report.exact
    for own, theirs in zip(weights_of(model.params), layer.parameters(), strict=True):
        np.testing.assert_array_equal(own, theirs.detach().double().numpy())


def test_a_narrower_type_is_rounded_and_reported() -> None:
    gru = stored("float64")
    for dtype, nearest in (("float32", np.float32), ("float16", np.float16), ("bfloat16", None)):
        other = with_dtype(gru, dtype)
        assert other.report.notes[-1].fate == "folded" and other.dtype == dtype
        for own, theirs in zip(weights_of(other.params), weights_of(gru.params), strict=True):
            np.testing.assert_array_equal(own, _nearest(theirs) if nearest is None else theirs.astype(nearest))
    big = gru.params[0][0]._replace(b_ih=np.full(3 * H, 1e5))
    with pytest.raises(errors.RangeError, match="dtype=float16: expected numbers up to 65504, got 100000"):
        with_dtype(StoredGRU(((big,),), dtype="float64"), "float16")
    with pytest.raises(errors.DTypeError, match="dtype: expected one of float16, bfloat16, float32, float64"):
        with_dtype(gru, "int8")


def test_bfloat16_weights_reach_numpy_and_onnx(tmp_path: Path) -> None:
    layer = torch.nn.GRU(I, H).bfloat16()
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    with pytest.raises(errors.BackendError, match=r"dtype='float32' \(--dtype float32\)"):
        gru_xp.load(tmp_path / "m.pt")
    x = np.random.default_rng(0).normal(size=(T, N, I)).astype("f4")
    expected = layer.float()(torch.tensor(x))[0].detach().numpy()
    np.testing.assert_allclose(gru_xp.load(tmp_path / "m.pt", dtype=torch.float32)(x)[0], expected, atol=1e-6)
    command = ["convert", str(tmp_path / "m.pt"), str(tmp_path / "m.onnx"), "--dtype", "float32"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0 and "exact: dtype=float32: the same numbers as in bfloat16" in result.stdout
    import onnxruntime

    (y,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(["y"], {"x": x})
    np.testing.assert_allclose(y, expected, atol=1e-5)


# ---- all arrays of a file --------------------------------------------------------------------------------------------


def test_a_model_is_rebuilt_from_the_arrays_beside_its_gru(tmp_path: Path) -> None:
    """An embedding, a GRU and a head, from a file and without the framework."""
    torch.manual_seed(0)
    embedding, layer, head = torch.nn.Embedding(11, I), torch.nn.GRU(I, H, batch_first=True), torch.nn.Linear(H, 2)
    net = torch.nn.ModuleDict({"embedding": embedding, "gru": layer, "head": head})
    save_file(net.state_dict(), tmp_path / "m.safetensors")
    np.savez(tmp_path / "m.npz", **{name: array.numpy() for name, array in net.state_dict().items()})
    tokens = np.random.default_rng(0).integers(11, size=(N, T))
    expected = head(layer(embedding(torch.tensor(tokens)))[0]).detach().numpy()
    for name in ("m.safetensors", "m.npz"):
        found = files.contents(tmp_path / name)
        assert set(found.arrays) == set(net.state_dict()) >= set(found.ignored)
        model = gru_xp.load(tmp_path / name, batch_first=True)
        y, _ = model(found.arrays["embedding.weight"][tokens])
        np.testing.assert_allclose(y @ found.arrays["head.weight"].T + found.arrays["head.bias"], expected, atol=1e-6)
        with pytest.raises(KeyError):
            found.arrays["nothing"]


def test_contents_and_records_are_shown_in_a_few_words(tmp_path: Path) -> None:
    many = {f"gru{n}.{key}": a.numpy() for n in range(14) for key, a in torch.nn.GRU(I, H).state_dict().items()}
    np.savez(tmp_path / "m.npz", **many, **{f"other{n}": np.zeros(3) for n in range(1000)})
    found = files.contents(tmp_path / "m.npz")
    assert repr(found.grus[0]) == "StoredGRU('gru0', I=4, H=5, L=1, D=1, bias=True, dtype='float32')"
    assert len(repr(found)) < 1500 and "1000 in all" in repr(found) and len(repr(found.arrays)) < 200


def test_loading_what_is_no_surprise_warns_of_nothing(tmp_path: Path, layer: torch.nn.GRU) -> None:
    torch.save(layer.state_dict(), tmp_path / "m.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gru_xp.load(tmp_path / "m.pt")
