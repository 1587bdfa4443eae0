"""ONNX with weights in 8 and 16 bits: what is written runs in onnxruntime, is small, and comes back the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import gru_xp
from gru_xp import errors
from gru_xp.module import as_stored

WEIGHTS = ["int8", "bfloat16", "float16"]
X = np.random.default_rng(0).standard_normal((9, 3, 12), dtype=np.float32)
LENGTHS = np.array([9, 4, 1], np.int32)


def quantised(weights: str, **options: Any) -> gru_xp.GRU:
    return gru_xp.quantize(gru_xp.GRU(12, 8, seed=0, **options), weights)


def by_onnxruntime(path: Path, **given: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, given)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "reset_after": False}]
)
def test_onnxruntime_gives_what_the_widened_weights_give(weights: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = quantised(weights, **options)
    assert model.save(tmp_path / "narrow.onnx").exact
    wide = gru_xp.GRU.from_params(model.params, spec=model.spec)
    expected = wide(X, lengths=LENGTHS)
    for ours, theirs in zip(expected, by_onnxruntime(tmp_path / "narrow.onnx", x=X, lengths=LENGTHS), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=2e-6)
    # and not what the weights from before give
    before = gru_xp.GRU(12, 8, seed=0, **options)(X, lengths=LENGTHS)
    assert np.abs(before[0] - expected[0]).max() > 2e-5


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
def test_what_was_written_comes_back_bit_for_bit(weights: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = quantised(weights, **options)
    model.save(tmp_path / "narrow.onnx")
    again = gru_xp.load(tmp_path / "narrow.onnx")
    assert repr(again) == repr(model) and again.report is not None and again.report.exact
    ours, theirs = as_stored(model), as_stored(again)
    pairs = [(ours.params, theirs.params)]
    if weights == "int8":
        assert ours.narrow is not None and theirs.narrow is not None
        pairs.append((ours.narrow.scales, theirs.narrow.scales))
    for before, after in pairs:
        for a, b in zip(gru_xp.weights(before), gru_xp.weights(after), strict=True):
            np.testing.assert_array_equal(a.view("u4"), b.view("u4"))
    np.testing.assert_array_equal(again(X)[0], model(X)[0])


@pytest.mark.parametrize(("weights", "factor"), [("int8", 3.8), ("bfloat16", 1.9), ("float16", 1.9)])
def test_files_are_smaller(weights: str, factor: float, tmp_path: Path) -> None:
    model = gru_xp.GRU(256, 256, seed=0)
    model.save(tmp_path / "wide.onnx")
    gru_xp.quantize(model, weights).save(tmp_path / "narrow.onnx")
    wide, narrow = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("wide", "narrow"))
    assert wide / narrow >= factor


def test_integer_activations_are_said_to_be_lost(tmp_path: Path) -> None:
    model = gru_xp.quantize(gru_xp.GRU(12, 8, seed=0), activations="int8")
    report = model.save(tmp_path / "narrow.onnx")
    assert [note.what for note in report.notes if note.fate == "changed"] == ["int8 activations"]
    assert "activations='float32'" in repr(gru_xp.load(tmp_path / "narrow.onnx"))


def test_opsets(tmp_path: Path) -> None:
    model = quantised("int8")
    model.save(tmp_path / "narrow.onnx", opset=13)
    np.testing.assert_allclose(by_onnxruntime(tmp_path / "narrow.onnx", x=X)[0], model(X)[0], atol=2e-6)
    with pytest.raises(errors.RangeError, match="opset: expected 13, .* for int8 weights"):
        model.save(tmp_path / "narrow.onnx", opset=12)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_same_numbers_in_float32_on_request(weights: str, tmp_path: Path) -> None:
    model = quantised(weights)
    model.save(tmp_path / "narrow.onnx")
    wide = gru_xp.load(tmp_path / "narrow.onnx", dtype="float32")
    assert "weights=" not in repr(wide) and wide.report is not None
    assert [note.what for note in wide.report.notes if note.fate == "folded"] == [f"{weights} weights"]
    for a, b in zip(gru_xp.weights(wide.params), gru_xp.weights(model.params), strict=True):
        np.testing.assert_array_equal(a, b)
    wide.save(tmp_path / "wide.npz")  # which holds no narrow weights
    with pytest.raises(errors.ConversionError, match="--dtype float32"):
        gru_xp.load(tmp_path / "narrow.onnx").save(tmp_path / "narrow.npz")


def test_a_layer_of_a_stack_that_is_in_float32(tmp_path: Path) -> None:
    """W and R of the first of two nodes become plain constants."""
    model = quantised("int8", num_layers=2)
    model.save(tmp_path / "narrow.onnx")
    proto = onnx.load(tmp_path / "narrow.onnx")
    first = next(node for node in proto.graph.node if node.op_type == "GRU")
    w = model.params[0][0]
    for place, W in ((1, w.W_ih), (2, w.W_hh)):
        r, z, n = np.split(W, 3)
        proto.graph.initializer.append(numpy_helper.from_array(np.concatenate([z, r, n])[None], f"plain{place}"))
        first.input[place] = f"plain{place}"
    onnx.save(proto, tmp_path / "mixed.onnx")
    mixed = gru_xp.load(tmp_path / "mixed.onnx")
    narrow = as_stored(mixed).narrow
    assert narrow is not None and narrow.kept == (0,) and str(narrow) == "int8 weights, layer 0 in float32"
    np.testing.assert_allclose(mixed(X)[0], model(X)[0], atol=1e-6)


def test_a_part_of_a_stack_keeps_its_scales(tmp_path: Path) -> None:
    model = quantised("int8", num_layers=2)
    model.save(tmp_path / "narrow.onnx")
    proto = onnx.load(tmp_path / "narrow.onnx")
    for node, name in zip((each for each in proto.graph.node if each.op_type == "GRU"), "ab", strict=True):
        node.name = f"{name}/GRU"
    onnx.save(proto, tmp_path / "named.onnx")
    part = gru_xp.load(tmp_path / "named.onnx", name="b")
    whole, ours = as_stored(model).narrow, as_stored(part).narrow
    assert whole is not None and ours is not None
    for a, b in zip(whole.scales[1][0][:2], ours.scales[0][0][:2], strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_added_to_weights_keeps_them_in_float32(tmp_path: Path) -> None:
    """An Add behind DequantizeLinear: its sum is no integer times a scale."""
    model = quantised("int8", bias=False)
    model.save(tmp_path / "narrow.onnx")
    proto = onnx.load(tmp_path / "narrow.onnx")
    node = next(node for node in proto.graph.node if node.op_type == "GRU")
    W = node.input[1]
    position = list(proto.graph.node).index(node)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.013).reshape(1), "little"))
    proto.graph.node.insert(position, helper.make_node("Add", [W, "little"], ["more"]))
    node.input[1] = "more"
    onnx.save(proto, tmp_path / "added.onnx")
    got = gru_xp.load(tmp_path / "added.onnx")
    assert "weights=" not in repr(got)
    np.testing.assert_allclose(got.params[0][0].W_ih, model.params[0][0].W_ih + np.float32(0.013), rtol=1e-6)
