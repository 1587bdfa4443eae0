"""Models of one GRU node, made by hand, and onnxruntime to run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from helpers import random_params
from onnx import helper

from gru_xp import files

T, N, I, H = 7, 4, 5, 3


def session(model: Any) -> Any:
    """Of a path or of bytes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of inputs with a default
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def node_model(
    *,
    D: int = 1,
    inputs: dict[str, Any] | None = None,
    nodes: Any = (),
    weights: dict[str, Any] | None = None,
    dtype: str = "f4",
    x_shape: Any = ("T", "N", I),
    opset: int = 17,
    **attributes: Any,
) -> Any:
    """A model of one GRU node. `inputs`: of the node, by its name in the standard; `nodes` stand before it."""
    made = random_params(np.random.default_rng(1), I, H, 1, D, dtype=dtype)[0]
    arrays = {
        "W": np.stack([w.W_ih for w in made]),
        "R": np.stack([w.W_hh for w in made]),
        "B": np.stack([np.concatenate([w.b_ih, w.b_hh]) for w in made]),
    }
    arrays |= weights or {}
    names = {"X": "x", "W": "W", "R": "R", "B": "B", "sequence_lens": "", "initial_h": ""} | (inputs or {})
    attributes = {"hidden_size": H} | attributes
    node = helper.make_node("GRU", list(names.values()), ["Y", "Y_h"], name="rnn", **attributes)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [*nodes, node],
        "g",
        [helper.make_tensor_value_info("x", kind, x_shape)]
        + [helper.make_tensor_value_info("lens", onnx.TensorProto.INT32, ["N"])] * ("lens" in names.values())
        + [helper.make_tensor_value_info("h0", kind, None)] * ("h0" in names.values()),
        [helper.make_tensor_value_info(name, kind, None) for name in ("Y", "Y_h")],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items() if array is not None],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def read(model: Any, tmp_path: Path) -> files.Contents:
    (tmp_path / "node.onnx").write_bytes(model.SerializeToString())
    return files.contents(tmp_path / "node.onnx")


def constant(name: str, value: Any) -> Any:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value)))
