"""ONNX: weights that are integers with scales, GRUs that are no nodes, arrays beside the GRU."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from helpers import assert_close
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx_nodes import H, I, N, T, constant, node_model, read, session

import gru_xp
from gru_xp import errors, files
from gru_xp.formats.onnx.quantized import quantised

RNG = np.random.default_rng(0)
EPS = float(np.finfo("f4").eps)
X = RNG.normal(size=(T, N, I)).astype("f4")
SHAPES = {"W": (1, 3 * H, I), "R": (1, 3 * H, H)}


# ---- integers with scales --------------------------------------------------------------------------------------------


def integers(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """With the least and the most of their range, so -128 in 8 bits."""
    ranges = {"int4": (-8, 8), "uint4": (0, 16), "uint8": (0, 256), "uint16": (0, 4000), "int32": (-2000, 2000)}
    least, most = ranges.get(dtype, (-128, 128))
    kind = getattr(ml_dtypes, dtype) if "int4" in dtype else dtype
    drawn = RNG.integers(least, most, size=shape)
    drawn.flat[:2] = least, most - 1
    return drawn.astype(kind)


def scales(shape: tuple[int, ...], dtype: str, kind: str = "f4") -> np.ndarray:
    wide = {"int4": 0.1, "uint4": 0.1, "uint16": 3e-4, "int32": 6e-4}.get(dtype, 1e-2)
    return (wide * RNG.uniform(0.5, 1, size=shape)).astype(kind)


CASES: dict[str, dict[str, Any]] = {
    "int8 for a tensor": {"ours": True},
    "int16 of 8 bits for each row": {
        "dtype": "int16",
        "axis": -2,
        "scale": lambda shape: shape[1:2],
        "opset": 21,
        "ours": True,
    },
    "int8 for a tensor, by a list of one": {"scale": lambda shape: (1,), "ours": True},
    "uint8 with a zero point": {"dtype": "uint8", "zero": True},
    "int8 for each row": {"axis": 1, "scale": lambda shape: shape[1:2], "ours": True},
    "uint8 for each row with zero points": {
        "dtype": "uint8",
        "axis": -2,
        "scale": lambda shape: shape[1:2],
        "zero": True,
    },
    "int8 for each column": {"axis": 2, "scale": lambda shape: shape[2:]},
    "int16 of 8 bits for a tensor": {"dtype": "int16", "opset": 21, "ours": True},
    "uint16 for each row with zero points": {
        "dtype": "uint16",
        "axis": 1,
        "scale": lambda shape: shape[1:2],
        "zero": True,
        "opset": 21,
    },
    "int32": {"dtype": "int32"},
    "int4 in blocks": {
        "dtype": "int4",
        "axis": 2,
        "block_size": 2,
        "scale": lambda shape: (*shape[:2], -(-shape[2] // 2)),
        "opset": 21,
    },
    "uint4 in blocks of rows with zero points": {
        "dtype": "uint4",
        "axis": 1,
        "block_size": 4,
        "scale": lambda shape: (1, -(-shape[1] // 4), shape[2]),
        "zero": True,
        "opset": 21,
    },
    "com.microsoft's int8": {"domain": "com.microsoft", "zero": True},
    "com.microsoft's int8 for each row": {
        "domain": "com.microsoft",
        "axis": 1,
        "scale": lambda shape: shape[1:2],
        "ours": True,
    },
    "com.microsoft's int16 with a zero point": {"domain": "com.microsoft", "dtype": "int16", "zero": True},
}


def quantised_model(case: dict[str, Any]) -> Any:
    """W and R behind DequantizeLinear with constants."""
    dtype, weights, nodes = case.get("dtype", "int8"), {"W": None, "R": None}, []
    for name, shape in SHAPES.items():
        of_scale = case.get("scale", lambda shape: ())(shape)
        weights[f"{name}q"], weights[f"{name}s"] = integers(shape, dtype), scales(of_scale, dtype)
        given = [f"{name}q", f"{name}s"]
        if case.get("zero"):
            weights[f"{name}z"] = integers(of_scale, dtype)
            given.append(f"{name}z")
        options = {key: case[key] for key in ("axis", "block_size") if key in case}
        nodes.append(
            helper.make_node("DequantizeLinear", given, [f"{name}_"], domain=case.get("domain", ""), **options)
        )
    model = node_model(nodes=nodes, inputs={"W": "W_", "R": "R_"}, weights=weights, opset=case.get("opset", 17))
    model.ir_version = 10
    if "domain" in case:
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@pytest.mark.parametrize("what", CASES)
def test_quantised_weights_are_multiplied_out(what: str, tmp_path: Path) -> None:
    """To the numbers that onnxruntime computes with. int8 with one scale for each row stays as it is."""
    model = quantised_model(CASES[what])
    (gru,) = read(model, tmp_path).grus
    ours = {array.name: numpy_helper.to_array(array) for array in model.graph.initializer}
    if gru.narrow is None:
        assert [(note.fate, note.what) for note in gru.report.notes][1:] == [("folded", "quantised weights")]
        assert "ours" not in CASES[what]
    else:
        assert "ours" in CASES[what] and gru.report.exact
        for scale, name in zip(gru.narrow.scales[0][0][:2], ("Ws", "Rs"), strict=True):
            z, r, n = np.split(np.broadcast_to(ours[name], 3 * H), 3)
            np.testing.assert_array_equal(scale, np.concatenate([r, z, n]))
    model.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in ("W_", "R_"))
    y, h_n, W, R = session(model.SerializeToString()).run(["Y", "Y_h", "W_", "R_"], {"x": X})
    w = gru.params[0][0]
    for ours, theirs in ((w.W_ih, W), (w.W_hh, R)):  # the gates z, r, n there and r, z, n here
        z, r, n = np.split(theirs[0], 3)
        np.testing.assert_array_equal(ours, np.concatenate([r, z, n]))
    got = gru_xp.gru(X, gru.params, spec=gru.spec)
    assert_close({"y": got[0], "h_n": got[1]}, {"y": y[:, 0], "h_n": h_n}, 4 * EPS * T)


def test_scales_of_16_bits(tmp_path: Path) -> None:
    """By ONNX's reference; onnxruntime has no GRU of bfloat16."""
    for kind in ("f2", ml_dtypes.bfloat16):
        q, s = integers((1, 3 * H, I), "int8"), scales((3 * H,), "int8").astype(kind)
        node = helper.make_node("DequantizeLinear", ["q", "s"], ["y"], axis=1)
        graph = helper.make_graph([node], "g", [], [], [numpy_helper.from_array(a, n) for n, a in (("q", q), ("s", s))])
        graph.output.append(helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(s.dtype), None))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        (expected,) = ReferenceEvaluator(model).run(None, {})
        got = quantised("DequantizeLinear", [q, s], {"axis": 1})
        assert got.dtype == s.dtype
        np.testing.assert_array_equal(got.astype("f4"), expected.astype("f4"))


def test_weights_that_are_rounded_in_the_file(tmp_path: Path) -> None:
    """QuantizeLinear and DequantizeLinear of a constant in float32, and a transpose behind them."""
    W = RNG.normal(size=(1, I, 3 * H)).astype("f4")
    nodes = [
        constant("s", np.float32(0.02)),
        constant("z", np.int8(3)),
        helper.make_node("QuantizeLinear", ["Wf", "s", "z"], ["Wq"]),
        helper.make_node("DequantizeLinear", ["Wq", "s", "z"], ["Wd"]),
        helper.make_node("Transpose", ["Wd"], ["Wt"], perm=[0, 2, 1]),
    ]
    model = node_model(nodes=nodes, inputs={"W": "Wt"}, weights={"W": None, "Wf": W})
    (gru,) = read(model, tmp_path).grus
    y, h_n = session(model.SerializeToString()).run(["Y", "Y_h"], {"x": X})
    got = gru_xp.gru(X, gru.params, spec=gru.spec)
    assert_close({"y": got[0], "h_n": got[1]}, {"y": y[:, 0], "h_n": h_n}, 4 * EPS * T)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "scales for another number of rows": ({"axis": 1, "scale": lambda shape: (2,)}, "one number for each of"),
    "an axis that is none": ({"axis": 7, "scale": lambda shape: (2,)}, "axis 7 of shape"),
    "blocks that do not fit": ({"axis": 2, "block_size": 2, "scale": lambda shape: (1, 1, 1)}, "blocks of 2"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_scales_that_do_not_fit_are_refused(what: str, tmp_path: Path) -> None:
    case, said = REFUSED[what]
    (refusal,) = read(quantised_model(case), tmp_path).refused
    assert "W is not in the file as numbers: 'W_': DequantizeLinear cannot be evaluated" in refusal.reason
    assert said in refusal.reason


def test_activations_that_are_quantised_are_no_weights(tmp_path: Path) -> None:
    """Scales that the model computes while it runs."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["s"], keepdims=0),
        helper.make_node("DequantizeLinear", ["q", "s"], ["W_"]),
    ]
    model = node_model(nodes=nodes, inputs={"W": "W_"}, weights={"W": None, "q": integers(SHAPES["W"], "int8")})
    (refusal,) = read(model, tmp_path).refused
    assert "'s' is computed by ReduceMax while the model runs" in refusal.reason


# ---- written out in other operators ----------------------------------------------------------------------------------


class Step(torch.nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.inner = torch.nn.ModuleDict({"cell": torch.nn.GRUCell(I, H, bias=bias)})
        self.head = torch.nn.Linear(H, 2)

    def forward(self, x: Any, h: Any) -> Any:
        h = self.inner["cell"](x, h)
        return self.head(h), h


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dynamo", [True, False])
def test_a_cell_of_pytorch_by_the_names_of_its_arrays(dynamo: bool, bias: bool, tmp_path: Path) -> None:
    """The newer exporter notes the class, so that nothing has to be assumed but the order of the axes."""
    torch.manual_seed(0)
    module, path = Step(bias).eval(), tmp_path / "m.onnx"
    options: dict[str, Any] = {"verbose": False} if dynamo else {"input_names": ["x", "h"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = (torch.zeros(N, I), torch.zeros(N, H))
        torch.onnx.export(module, given, str(path), dynamo=dynamo, external_data=False, **options)
    found = files.contents(path)
    if not dynamo and not bias:  # the weights were transposed and have no names
        assert not found.grus
        return
    (gru,) = found.grus
    assert gru.name == "inner.cell"
    assert gru.report.assumed == (() if dynamo else ("a GRU of PyTorch's",)) + ("batch_first=False",)
    model = gru_xp.GRU.from_params(gru.params)
    names = [value.name for value in onnx.load(path).graph.input]
    h = np.zeros((N, H), "f4")
    for t, y in enumerate(model(X)[0]):
        h = session(path).run(None, dict(zip(names, (X[t], h), strict=True)))[1]
        assert_close({"h": y}, {"h": h}, 4 * EPS * T)
    with pytest.raises(errors.BackendError, match="'inner.cell' is no node of the file"):
        files.formats()["onnx"].run(path, gru, X, None, None)


def test_arrays_of_a_node_are_no_gru_of_their_own(tmp_path: Path) -> None:
    """Exporters without optimising leave PyTorch's names before a node."""
    torch.manual_seed(0)
    module, path = torch.nn.Sequential(torch.nn.GRU(I, H)), tmp_path / "m.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(T, N, I),), path, dynamo=True, optimize=False, verbose=False)
    assert [gru.name for gru in files.contents(path).grus] == ["0"]


DATA = Path(__file__).parent / "data/tf2onnx-1.17.zip"
LOOPS = {
    "hard_sigmoid": ["sequential_1.gru_1"],
    "reset_before": ["sequential_2.gru_2"],
    "no_bias": ["sequential_3.gru_3"],
    "masked": ["sequential_4.gru_4"],
    "bidirectional": ["sequential_5.bidirectional.forward_gru_5", "sequential_5.bidirectional.backward_gru_5"],
    "cell": ["sequential_6.rnn.while.gru_cell"],
    "lstm": [],
}


def of_tf2onnx(name: str, tmp_path: Path) -> Path:
    with zipfile.ZipFile(DATA) as archive:
        (tmp_path / name).write_bytes(archive.read(name))
    return tmp_path / name


@pytest.mark.parametrize("what", LOOPS)
def test_loops_of_tf2onnx_are_named_as_grus(what: str, tmp_path: Path) -> None:
    found = files.contents(of_tf2onnx(f"{what}.onnx", tmp_path))
    assert not found.grus
    assert [refusal.name for refusal in found.refused] == LOOPS[what]
    assert all("a GRU written out, as tf2onnx does where" in refusal.reason for refusal in found.refused)


def test_what_tf2onnx_writes_as_a_node_is_read(tmp_path: Path) -> None:
    model = gru_xp.load(of_tf2onnx("plain.onnx", tmp_path))
    with zipfile.ZipFile(DATA) as archive:
        x, y = (np.load(io.BytesIO(archive.read(name))) for name in ("x.npy", "plain.npy"))
    assert model.batch_first
    assert_close({"y": model(x)[0]}, {"y": y}, 4 * EPS * x.shape[1])


def test_nodes_in_the_branches_of_an_if_are_told_apart(tmp_path: Path) -> None:
    """Both without a name of their own."""
    whole = node_model()
    del whole.graph.node[:]
    branches = [
        helper.make_graph(
            [helper.make_node("GRU", ["x", "W", "R"], ["Y"], hidden_size=H, linear_before_reset=after)],
            f"branch {after}",
            [],
            [helper.make_tensor_value_info("Y", 1, None)],
        )
        for after in (1, 0)
    ]
    whole.graph.input.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    whole.graph.node.append(
        helper.make_node("If", ["c"], ["Y"], "br", then_branch=branches[0], else_branch=branches[1])
    )
    found = {gru.name.rpartition("_")[0]: gru.spec.reset_after for gru in read(whole, tmp_path).grus}
    assert found == {"br.then.GRU": True, "br.else.GRU": False}


# ---- the other arrays ------------------------------------------------------------------------------------------------


def test_arrays_beside_the_gru(tmp_path: Path) -> None:
    kernel = RNG.normal(size=(H, 2)).astype("f4")
    extra = {
        "head": kernel,
        "half": kernel.astype("f2"),
        "wide": kernel.astype(ml_dtypes.bfloat16),
        "ids": np.arange(3),
    }
    arrays = read(node_model(weights=extra), tmp_path).arrays
    assert {"W", "R", "B", *extra} == {*arrays}
    for _ in range(100):  # however often
        np.testing.assert_array_equal(arrays["head"], kernel)
    for name, array in extra.items():
        kind = np.dtype("f4") if name == "wide" else array.dtype
        assert arrays[name].dtype == kind and arrays.tensors[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array.astype(kind))
