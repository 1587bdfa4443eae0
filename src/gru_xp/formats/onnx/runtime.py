"""GRU nodes of a file, run by onnxruntime, one at a time, with the attributes and weights that stand in the file."""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.errors import BackendError
from gru_xp.formats.onnx.constants import library
from gru_xp.formats.onnx.nodes import GRUNode
from gru_xp.formats.onnx.stacks import Stack

__all__ = ["run_stack"]


def run_stack(stack: Stack, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any] | None:
    """y (T, N, D*H), h_n (L*D, N, H); None without onnxruntime. A `BackendError` says what it cannot run.

    Whatever a file says of `layout` does not matter: onnxruntime has only 0, and x comes as (T, N, I).
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    dtype = stack[0].dtype
    if dtype not in ("float32", "float16"):
        raise BackendError(f"onnxruntime {onnxruntime.__version__} has no GRU for {dtype} on the CPU")
    if 0 in x.shape:
        raise BackendError("onnxruntime aborts the process where there are no time steps or no rows")  # seen with 1.32
    D, states = stack[0].D, []
    for layer, node in enumerate(stack):
        given = {"X": x} | ({} if h0 is None else {"h0": h0[layer * D : (layer + 1) * D]})
        given |= {} if lengths is None else {"lengths": np.asarray(lengths, np.int32)}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        model = _model(node, given).SerializeToString()
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            y, h_n = session.run(None, given)
        except Exception as error:  # its errors have no common class
            raise BackendError(f"onnxruntime {onnxruntime.__version__} refuses {node.name}: {error}") from None
        states.append(h_n)
        x = np.ascontiguousarray(y.transpose(0, 2, 1, 3).reshape(*y.shape[:1], y.shape[2], -1))
    return x, np.concatenate(states)


def _model(node: GRUNode, given: dict[str, Any]) -> Any:
    """A model of one node: the file's, between inputs and outputs of our own."""
    onnx = library()
    helper = onnx.helper
    weights = {"W": node.W, "R": node.R} | ({} if node.B is None else {"B": node.B})
    names = ["X", "W", "R", "B" if node.B is not None else ""]
    names += ["lengths" if "lengths" in given else "", "h0" if "h0" in given else ""]
    copied = onnx.NodeProto(op_type="GRU", input=names, output=["Y", "Y_h"])
    copied.attribute.extend(a for a in node.proto.attribute if a.name not in ("layout", "output_sequence"))
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in given.items()}
    graph = helper.make_graph(
        [copied],
        "one",
        [helper.make_tensor_value_info(name, kinds[name], [None] * array.ndim) for name, array in given.items()],
        [helper.make_tensor_value_info(name, kinds["X"], None) for name in ("Y", "Y_h")],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", max(node.graph.source.opset, 7))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)
