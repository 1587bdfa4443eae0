"""Writing ONNX: which inputs the graph has, and which opset, for runtimes that want them so."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import assert_close, random_params
from onnx.reference import ReferenceEvaluator
from onnx_nodes import session

import gru_xp
from gru_xp import files
from gru_xp.params import weights_of
from gru_xp.stored import StoredGRU

RNG = np.random.default_rng(0)
EPS = float(np.finfo("f4").eps)
T, N, I, H = 7, 4, 5, 3
NEWEST = onnx.defs.onnx_opset_version()


def assert_runs_as(run: Any, names: set[str], model: gru_xp.GRU) -> None:
    """With all that the graph takes."""
    L, D = len(model.params), len(model.params[0])
    for T_, N_ in ((T, N), (2, 1)):
        x = RNG.normal(size=(N_, T_, I) if model.batch_first else (T_, N_, I)).astype("f4")
        given = {
            "h0": RNG.normal(size=(L * D, N_, H)).astype("f4"),
            "lengths": np.array([T_, 0, 3, 1][:N_], "i4"),
        }
        given = {name: value for name, value in given.items() if name in names}
        y, h_n = run.run(["y", "h_n"], {"x": x, **given})
        expected = model(x, given.get("h0"), lengths=given.get("lengths"))
        assert_close({"y": y, "h_n": h_n}, {"y": expected[0], "h_n": expected[1]}, 4 * EPS * T)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("layers", "D"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("names", ["x", "x,h0", "x, lengths", ["lengths", "x", "h0"]])
def test_plain_inputs(names: Any, layers: int, D: int, batch_first: bool, tmp_path: Path) -> None:
    """None has a default, so that a runtime that takes those for constants takes all of them."""
    model = gru_xp.GRU.from_params(random_params(RNG, I, H, layers, D, dtype="f4"), batch_first=batch_first)
    report = model.save(tmp_path / "m.onnx", inputs=names)
    graph = onnx.load(tmp_path / "m.onnx").graph
    wanted = [name for name in ("x", "h0", "lengths") if name in names]
    assert [value.name for value in graph.input] == wanted
    assert not {*wanted} & {tensor.name for tensor in graph.initializer}
    assert_runs_as(session(tmp_path / "m.onnx"), {*wanted}, model)
    assert report.exact
    again = gru_xp.load(tmp_path / "m.onnx")
    assert again.report is not None and again.report.exact and again.batch_first is batch_first
    for a, b in zip(weights_of(again.params), weights_of(model.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_first_state_without_an_input_is_a_constant(tmp_path: Path) -> None:
    h0, path = RNG.normal(size=(2, H)).astype("f4"), tmp_path / "m.onnx"
    stored = StoredGRU(random_params(RNG, I, H, 1, 2, dtype="f4"), h0=h0)
    assert files.write(stored, path, inputs="x").exact
    x = RNG.normal(size=(T, N, I)).astype("f4")
    y, _ = session(path).run(["y", "h_n"], {"x": x})
    assert_close({"y": y}, {"y": gru_xp.gru(x, stored.params, np.repeat(h0[:, None], N, 1))[0]}, 4 * EPS * T)
    report = files.write(stored, path, inputs="x,h0")
    assert [note.what for note in report.notes if note.fate == "changed"] == ["the first state"]


# onnxruntime 1.32 runs the opsets that ONNX has released with it; the reference evaluator runs those after.
@pytest.mark.parametrize("opset", [10, 11, 12, 13, 14, 15, 17, 18, 21, 22, NEWEST])
def test_every_opset(opset: int, tmp_path: Path) -> None:
    model = gru_xp.GRU.from_params(random_params(RNG, I, H, 2, 2, dtype="f4"), batch_first=True)
    for inputs in (None, "x,h0,lengths"):
        model.save(tmp_path / "m.onnx", opset=opset, inputs=inputs)
        written = onnx.load(tmp_path / "m.onnx")
        onnx.checker.check_model(written, full_check=True)
        assert [each.version for each in written.opset_import] == [opset]
        assert_runs_as(session(tmp_path / "m.onnx"), {"h0", "lengths"}, model)
        again = gru_xp.load(tmp_path / "m.onnx")
        assert (again.batch_first, len(again.params)) == (True, 2)


def test_the_reference_evaluator_agrees(tmp_path: Path) -> None:
    """Which knows one layer forwards, and no lengths."""
    model = gru_xp.GRU.from_params(random_params(RNG, I, H, dtype="f4"))
    model.save(tmp_path / "m.onnx", inputs="x,h0", opset=14)
    assert_runs_as(ReferenceEvaluator(str(tmp_path / "m.onnx")), {"h0"}, model)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no x": ({"inputs": "h0"}, "inputs: expected x, and of h0 and lengths what shall be inputs too, got 'h0'"),
    "an unknown one": ({"inputs": "x,mask"}, "got 'x,mask'"),
    "one twice": ({"inputs": ["x", "x"]}, r"got \['x', 'x'\]"),
    "an old opset": ({"opset": 9}, f"opset: expected 10, which is the first .* for float32, to {NEWEST}, .* got 9"),
    "an opset to come": ({"opset": NEWEST + 1}, f"got {NEWEST + 1}"),
    "words": ({"opset": "17"}, "got '17'"),
    "another option": ({"opsett": 17}, "opsett: expected an option of writing onnx files, which are inputs: .*; opset"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_option(what: str, tmp_path: Path) -> None:
    options, said = WRONG[what]
    with pytest.raises(gru_xp.GRUError, match=said):
        gru_xp.GRU(I, H).save(tmp_path / "m.onnx", **options)
    assert not (tmp_path / "m.onnx").exists()


def test_other_formats_have_no_such_options(tmp_path: Path) -> None:
    with pytest.raises(gru_xp.GRUError, match="opset: expected an option of writing safetensors files, which are none"):
        gru_xp.GRU(I, H).save(tmp_path / "m.safetensors", opset=17)


def test_bfloat16_needs_a_newer_opset(tmp_path: Path) -> None:
    model = gru_xp.GRU(I, H, dtype="bfloat16", backend="torch")
    with pytest.raises(gru_xp.GRUError, match="opset: expected 22, which is the first that has all operators for bf"):
        model.save(tmp_path / "m.onnx", opset=17)


def test_by_the_command_line(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from gru_xp.cli.main import app

    gru_xp.GRU(I, H, seed=0).save(tmp_path / "m.safetensors")
    asked = [str(tmp_path / "m.safetensors"), str(tmp_path / "m.onnx"), "--inputs", "x,h0", "--opset", "13"]
    ran = CliRunner().invoke(app, ["convert", *asked])
    assert ran.exit_code == 0, ran.output
    written = onnx.load(tmp_path / "m.onnx")
    assert [value.name for value in written.graph.input] == ["x", "h0"] and written.opset_import[0].version == 13
    ran = CliRunner().invoke(app, ["convert", *itertools.chain(asked[:1], [str(tmp_path / "m.npz")], asked[2:4])])
    assert ran.exit_code != 0 and "inputs: expected an option of writing npz files" in ran.output
