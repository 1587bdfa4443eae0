"""A GRU as an ONNX model: `x`, and optionally `h0` and `lengths`, to `y` and `h_n`, any batch and length of time.

ONNX has no optional inputs of a graph, but inputs with a default. That of `h0` is a state of one row, that of `lengths`
a number that no sequence reaches; both are brought to the batch on the way. Past a row's end `y` is 0 and `h_n` is the
state there, also at length 0, where onnxruntime's own node would give 0: there `h_n` is `h0`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.activations import SIGMOID, TANH, Activation
from gru_xp.checks import sizes_of
from gru_xp.errors import ConversionError
from gru_xp.formats.layouts import swapped
from gru_xp.formats.onnx.constants import library
from gru_xp.formats.onnx.nodes import ACTIVATIONS, single
from gru_xp.params import CellParams
from gru_xp.stored import Note, Report, StoredGRU

__all__ = ["model_of"]

OPSET, OPSET_BFLOAT16, IR = 17, 22, 8
ENDLESS = 2**31 - 1  # the default of `lengths`


def model_of(gru: StoredGRU) -> tuple[Any, Report]:
    """The model, and what happened on the way."""
    helper, kind = library().helper, _kind(gru.dtype)
    sizes, build = sizes_of(gru.params), _Builder(gru.dtype)
    x, h0, lengths = _inputs(build, gru)
    states = []
    for layer, directions in enumerate(gru.params):
        name = f"{gru.name or 'gru'}/layer_{layer}".replace(".", "/")
        state = h0
        if sizes.L > 1:
            rows = (build.constant(np.asarray([row * sizes.D], np.int64)) for row in (layer, layer + 1))
            state = build.node("Slice", [h0, *rows])
        weights = [build.weight(stacked) for stacked in _stacked(directions)]
        given = [x, *weights, *[""] * (3 - len(weights)), lengths, state]
        y, h_n = build.node("GRU", given, name=name, outputs=2, **_attributes(gru, sizes.D))
        states.append(h_n)
        if sizes.D == 1:
            x = build.node("Squeeze", [y, build.constant(np.asarray([1], np.int64))])
        else:
            moved = build.node("Transpose", [y], perm=[0, 2, 1, 3])
            x = build.node("Reshape", [moved, build.constant(np.asarray([0, 0, -1], np.int64))])
    h_n = build.node("Concat", states, axis=0) if sizes.L > 1 else states[0]
    ended = build.node("Equal", [lengths, build.constant(np.asarray(0, np.int32))])
    column = build.node("Unsqueeze", [ended, build.constant(np.asarray([1], np.int64))])
    build.node("Where", [column, h0, h_n], names=["h_n"])
    if gru.batch_first:
        build.node("Transpose", [x], names=["y"], perm=[1, 0, 2])
    else:
        build.node("Identity", [x], names=["y"])
    axes = ["N", "T"] if gru.batch_first else ["T", "N"]
    graph = helper.make_graph(
        build.nodes,
        (gru.name or "gru").replace(".", "/"),
        [
            helper.make_tensor_value_info("x", kind, [*axes, sizes.I]),
            helper.make_tensor_value_info("h0", kind, [sizes.L * sizes.D, "h0_rows", sizes.H]),
            helper.make_tensor_value_info(
                "lengths", helper.np_dtype_to_tensor_dtype(np.dtype("int32")), ["lengths_rows"]
            ),
        ],
        [
            helper.make_tensor_value_info("y", kind, [*axes, sizes.D * sizes.H]),
            helper.make_tensor_value_info("h_n", kind, [sizes.L * sizes.D, "N", sizes.H]),
        ],
        build.tensors,
    )
    opset = OPSET_BFLOAT16 if gru.dtype == "bfloat16" else OPSET
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, producer_name="gru_xp", opset_imports=opsets, ir_version=IR)
    library().checker.check_model(model)
    return model, _report(gru)


class _Builder:
    """Nodes and constants of a graph under names of their own."""

    def __init__(self, dtype: str):
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def constant(self, array: Any, name: str | None = None) -> str:
        name = name or f"constant_{len(self.tensors)}"
        self.tensors.append(library().numpy_helper.from_array(array, name))
        return name

    def weight(self, array: np.ndarray, name: str | None = None) -> str:
        """Numbers in the dtype of the GRU; bfloat16 comes as float32."""
        if self.dtype != "bfloat16":
            return self.constant(np.ascontiguousarray(array), name)
        name = name or f"constant_{len(self.tensors)}"
        types = library().TensorProto
        upper = (np.ascontiguousarray(array, "<f4").view("<u4") >> 16).astype("<u2")
        self.tensors.append(types(name=name, dims=array.shape, data_type=types.BFLOAT16, raw_data=upper.tobytes()))
        return name

    def node(
        self, op: str, inputs: list[str], *, outputs: int = 1, names: Any = None, name: str = "", **options: Any
    ) -> Any:
        """The name of its output, or the names if there are several."""
        names = names or [f"{op.lower()}_{len(self.nodes)}{'_h' * index}" for index in range(outputs)]
        self.nodes.append(
            library().helper.make_node(op, inputs, names, name=name or f"{op}_{len(self.nodes)}", **options)
        )
        return names[0] if len(names) == 1 else names


def _inputs(build: _Builder, gru: StoredGRU) -> tuple[str, str, str]:
    """x as (T, N, I), h0 as (L*D, N, H) and lengths as (N,), from the inputs and their defaults."""
    sizes = sizes_of(gru.params)
    default = np.zeros((sizes.L * sizes.D, 1, sizes.H)) if gru.h0 is None else gru.h0
    default = default if default.ndim == 3 else default[:, None]
    build.weight(default.astype(gru.params[0][0].W_hh.dtype), "h0")
    build.constant(np.asarray([ENDLESS], np.int32), "lengths")
    x = build.node("Transpose", ["x"], perm=[1, 0, 2]) if gru.batch_first else "x"
    T, N = (build.node("Shape", [x], start=axis, end=axis + 1) for axis in (0, 1))
    one = build.constant(np.asarray([1], np.int64))
    h0 = build.node("Expand", ["h0", build.node("Concat", [one, N, one], axis=0)])
    most = build.node("Cast", [T], to=library().TensorProto.INT32)
    lengths = build.node("Expand", [build.node("Min", ["lengths", most]), N])
    return x, h0, lengths


def _stacked(directions: tuple[CellParams, ...]) -> list[np.ndarray]:
    """W (D, 3H, I), R (D, 3H, H) and, with biases, B (D, 6H)."""
    W, R = (np.stack([swapped(w[index]) for w in directions]) for index in (0, 1))
    if directions[0].b_ih is None:
        return [W, R]
    return [W, R, np.stack([np.concatenate([swapped(w.b_ih), swapped(w.b_hh)]) for w in directions])]


def _attributes(gru: StoredGRU, D: int) -> dict[str, Any]:
    spec = gru.spec
    found: dict[str, Any] = {
        "hidden_size": sizes_of(gru.params).H,
        "direction": "bidirectional" if D == 2 else "reverse" if spec.reverse else "forward",
        "linear_before_reset": int(spec.reset_after),
    }
    if spec.clip is not None:
        found["clip"] = spec.clip
    used = (spec.gate_activation, spec.candidate_activation)
    if used != (SIGMOID, TANH):
        found["activations"] = [_name(each) for each in used] * D
        for letter in ("alpha", "beta"):
            constants = [getattr(each, letter) for each in used if letter in ACTIVATIONS[_name(each)].split()] * D
            if constants:
                found[f"activation_{letter}"] = constants
    return found


def _name(activation: Activation) -> str:
    """ONNX's name of an activation."""
    name = "".join(part.capitalize() for part in activation.name.split("_"))
    if name not in ACTIVATIONS:
        raise ConversionError(f"{activation}: ONNX's GRU has only {', '.join(ACTIVATIONS)}")
    return name


def _report(gru: StoredGRU) -> Report:
    why = "bit for bit"
    if gru.dtype in ("float64", "bfloat16"):
        why += f"; valid ONNX, but onnxruntime has no GRU for {gru.dtype} on the CPU"
    notes = [Note("exact", "weights and biases", why)]
    constants = [
        getattr(each, letter)
        for each in (gru.spec.gate_activation, gru.spec.candidate_activation)
        for letter in ("alpha", "beta")
    ]
    rounded = [each for each in (*constants, gru.spec.clip) if each is not None and single(np.float32(each)) != each]
    if rounded:
        notes.append(Note("changed", "constants", f"ONNX holds them as float32: {', '.join(map(str, rounded))}"))
    if gru.spec.padding == "hold":
        notes.append(Note("changed", "padding", "past a row's end y is 0 there, and the last state here"))
    if gru.dropout:
        notes.append(Note("ignored", "dropout", "it acts in training alone, and this file does not train"))
    return Report(tuple(notes))


def _kind(dtype: str) -> int:
    """ONNX's number of a dtype."""
    types = library().TensorProto
    kinds = {"float32": types.FLOAT, "float64": types.DOUBLE, "float16": types.FLOAT16, "bfloat16": types.BFLOAT16}
    return int(kinds[dtype])
