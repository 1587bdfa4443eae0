"""A GRU as an ONNX model: `x`, and optionally `h0` and `lengths`, to `y` and `h_n`, any batch and length of time.

ONNX has no optional inputs of a graph, but inputs with a default. That of `h0` is a state of one row, that of `lengths`
a number that no sequence reaches; both are brought to the batch on the way. Runtimes that take an input with a default
for a constant, as OpenVINO does, get plain ones by the option `inputs`. Past a row's end `y` is 0 and `h_n` is the
state there, also at length 0, where onnxruntime's own node would give 0: there `h_n` is `h0`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gru_xp.checks import sizes_of
from gru_xp.errors import RangeError, StructureError
from gru_xp.formats.onnx.constants import library
from gru_xp.formats.onnx.narrow import stored_rows
from gru_xp.formats.onnx.operator import attributes, single, stacked
from gru_xp.narrow import Narrow
from gru_xp.params import CellParams
from gru_xp.stored import Note, Report, StoredGRU

__all__ = ["OPTIONS", "model_of"]

OPTIONS = {
    "inputs": 'the inputs of the graph, all without defaults: "x", "x,h0", "x,lengths" or "x,h0,lengths"',
    "opset": "the version of ONNX's operators, at least 10",
}
LEAST, OPSET, OPSET_BFLOAT16 = 10, 17, 22
OPSET_NARROW = 13  # DequantizeLinear has a scale for each row, and Cast takes bfloat16
ENDLESS = 2**31 - 1  # the default of `lengths`
INPUTS = ("x", "h0", "lengths")


def model_of(gru: StoredGRU, inputs: str | Iterable[str] | None = None, opset: int | None = None) -> tuple[Any, Report]:
    """The model, and what happened on the way; the options are `OPTIONS`."""
    helper, kind = library().helper, _kind(gru.dtype)
    sizes, build = sizes_of(gru.params), _Builder(gru.dtype, _opset(opset, gru))
    plain = _plain(inputs)
    x, h0, lengths = _with_defaults(build, gru) if plain is None else _without_defaults(build, gru, plain)
    states = []
    for layer, directions in enumerate(gru.params):
        name = f"{gru.name or 'gru'}/layer_{layer}".replace(".", "/")
        state = h0
        if sizes.L > 1 and h0:
            state = build.part(h0, layer * sizes.D, (layer + 1) * sizes.D)
        weights = _weights(build, directions, None if gru.narrow is None else gru.narrow.of_layers(layer, layer + 1))
        given = [x, *weights, *[""] * (3 - len(weights)), lengths, state]
        y, h_n = build.node("GRU", given, name=name, outputs=2, **attributes(gru.spec, sizes.H, sizes.D))
        states.append(h_n)
        if sizes.D == 1:
            x = build.axes("Squeeze", y, 1)
        else:
            moved = build.node("Transpose", [y], perm=[0, 2, 1, 3])
            x = build.node("Reshape", [moved, build.constant(np.asarray([0, 0, -1], np.int64))])
    h_n = build.node("Concat", states, axis=0) if sizes.L > 1 else states[0]
    if h0 and lengths:
        ended = build.axes("Unsqueeze", build.node("Equal", [lengths, build.constant(np.asarray(0, np.int32))]), 1)
        build.node("Where", [ended, h0, h_n], names=["h_n"])
    else:
        build.node("Identity", [h_n], names=["h_n"])
    if gru.batch_first:
        build.node("Transpose", [x], names=["y"], perm=[1, 0, 2])
    else:
        build.node("Identity", [x], names=["y"])
    axes = ["N", "T"] if gru.batch_first else ["T", "N"]
    rows = ("h0_rows", "lengths_rows") if plain is None else ("N", "N")
    taken = {
        "x": helper.make_tensor_value_info("x", kind, [*axes, sizes.I]),
        "h0": helper.make_tensor_value_info("h0", kind, [sizes.L * sizes.D, rows[0], sizes.H]),
        "lengths": helper.make_tensor_value_info("lengths", library().TensorProto.INT32, [rows[1]]),
    }
    graph = helper.make_graph(
        build.nodes,
        (gru.name or "gru").replace(".", "/"),
        [taken[name] for name in plain or INPUTS],
        [
            helper.make_tensor_value_info("y", kind, [*axes, sizes.D * sizes.H]),
            helper.make_tensor_value_info("h_n", kind, [sizes.L * sizes.D, "N", sizes.H]),
        ],
        build.tensors,
    )
    opsets = [helper.make_opsetid("", build.opset)]
    version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(graph, producer_name="gru_xp", opset_imports=opsets, ir_version=version)
    library().checker.check_model(model)
    return model, _report(gru, plain)


def _opset(asked: int | None, gru: StoredGRU) -> int:
    kind = gru.dtype if gru.narrow is None else f"{gru.narrow.weights} weights"
    least = {"float32": LEAST, "float64": LEAST, "float16": LEAST, "bfloat16": OPSET_BFLOAT16}.get(kind, OPSET_NARROW)
    most = library().defs.onnx_opset_version()
    if asked is None:
        return max(OPSET, least)
    if type(asked) is not int or not least <= asked <= most:
        raise RangeError(
            f"opset: expected {least}, which is the first that has all operators for {kind}, to {most}, the newest of "
            f"the onnx that is installed, got {asked!r}"
        )
    return asked


def _plain(inputs: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """Which inputs the graph has, in order, where none of them has a default."""
    if inputs is None:
        return None
    asked = inputs.split(",") if isinstance(inputs, str) else list(inputs)
    asked = [name.strip() if isinstance(name, str) else name for name in asked]
    if "x" not in asked or any(name not in INPUTS for name in asked) or len(set(asked)) < len(asked):
        raise StructureError(f"inputs: expected x, and of h0 and lengths what shall be inputs too, got {inputs!r}")
    return tuple(name for name in INPUTS if name in asked)


class _Builder:
    """Nodes and constants of a graph under names of their own, in the operators of an opset."""

    def __init__(self, dtype: str, opset: int):
        self.dtype, self.opset = dtype, opset
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []

    def constant(self, array: Any, name: str | None = None) -> str:
        name = name or f"constant_{len(self.tensors)}"
        self.tensors.append(library().numpy_helper.from_array(array, name))
        return name

    def weight(self, array: np.ndarray, name: str | None = None, dtype: str | None = None) -> str:
        """Numbers in the dtype of the GRU, unless another is named; bfloat16 comes as float32."""
        if (dtype or self.dtype) != "bfloat16":
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

    def axes(self, op: str, value: str, axis: int) -> str:
        """Squeeze or Unsqueeze, whose axes were an attribute up to opset 12."""
        if self.opset < 13:
            return self.node(op, [value], axes=[axis])
        return self.node(op, [value, self.constant(np.asarray([axis], np.int64))])

    def part(self, value: str, start: int, end: int) -> str:
        """A slice along the first axis."""
        return self.node("Slice", [value, *(self.constant(np.asarray([at], np.int64)) for at in (start, end))])

    def size(self, value: str, axis: int) -> str:
        """The size of an axis, (1,)."""
        return self.part(self.node("Shape", [value]), axis, axis + 1)


def _time_first(build: _Builder, gru: StoredGRU) -> str:
    return build.node("Transpose", ["x"], perm=[1, 0, 2]) if gru.batch_first else "x"


def _with_defaults(build: _Builder, gru: StoredGRU) -> tuple[str, str, str]:
    """x as (T, N, I), h0 as (L*D, N, H) and lengths as (N,), from the inputs and their defaults."""
    sizes, x = sizes_of(gru.params), _time_first(build, gru)
    build.weight(_rows(np.zeros((sizes.L * sizes.D, sizes.H)) if gru.h0 is None else gru.h0, gru), "h0")
    build.constant(np.asarray([ENDLESS], np.int32), "lengths")
    T, N = (build.size(x, axis) for axis in (0, 1))
    most = build.node("Cast", [T], to=library().TensorProto.INT32)
    lengths = build.node("Where", [build.node("Less", ["lengths", most]), "lengths", most])
    return x, _expanded(build, "h0", N), build.node("Expand", [lengths, N])


def _without_defaults(build: _Builder, gru: StoredGRU, plain: tuple[str, ...]) -> tuple[str, str, str]:
    """The same, of which what is no input is a constant of the file or nothing, ""."""
    x = _time_first(build, gru)
    lengths = "lengths" if "lengths" in plain else ""
    if "h0" in plain or gru.h0 is None:
        return x, "h0" if "h0" in plain else "", lengths
    return x, _expanded(build, build.weight(_rows(gru.h0, gru)), build.size(x, 1)), lengths


def _rows(h0: Any, gru: StoredGRU) -> np.ndarray:
    """A first state (L*D, H) or (L*D, N, H) with an axis for the rows."""
    return (h0 if h0.ndim == 3 else h0[:, None]).astype(gru.params[0][0].W_hh.dtype)


def _expanded(build: _Builder, h0: str, N: str) -> str:
    one = build.constant(np.asarray([1], np.int64))
    return build.node("Expand", [h0, build.node("Concat", [one, N, one], axis=0)])


def _weights(build: _Builder, directions: tuple[CellParams, ...], narrow: Narrow | None) -> list[str]:
    """The names of W, R and B; W and R are widened on the way if they are narrow."""
    W, R, *B = stacked(directions)
    if narrow is None:
        return [build.weight(letter) for letter in (W, R, *B)]
    names = []
    for index, letter in enumerate((W, R)):
        if narrow.scales is None:
            stored = letter.astype(np.float16) if narrow.weights == "float16" else letter
            held = build.weight(stored, dtype=narrow.weights)
            names.append(build.node("Cast", [held], to=library().TensorProto.FLOAT))
        elif letter.size == 0:  # in Reshape a size of 0 means that of its input
            names.append(build.weight(letter))
        else:
            rows = stored_rows([w[index] for w in directions], [scales[index] for scales in narrow.scales[0]])
            wide = build.node("DequantizeLinear", list(map(build.constant, rows)), axis=0)
            shape = build.constant(np.asarray(letter.shape, np.int64))
            names.append(build.node("Reshape", [wide, shape]))
    return [*names, *map(build.weight, B)]


def _report(gru: StoredGRU, plain: tuple[str, ...] | None) -> Report:
    why = "bit for bit"
    if gru.dtype in ("float64", "bfloat16"):
        why += f"; valid ONNX, but onnxruntime has no GRU for {gru.dtype} on the CPU"
    notes = [Note("exact", "weights and biases", why)]
    if gru.narrow is not None:
        how = "Cast" if gru.narrow.scales is None else "DequantizeLinear"
        notes.append(Note("exact", f"{gru.narrow.weights} weights", f"behind {how}, which widens them in the runtime"))
        if gru.narrow.activations == "int8":
            why = "there products are of float32: x and the state are not rounded to 8 bits"
            notes.append(Note("changed", "int8 activations", why))
    constants = [
        getattr(each, letter)
        for each in (gru.spec.gate_activation, gru.spec.candidate_activation)
        for letter in ("alpha", "beta")
    ]
    rounded = [each for each in (*constants, gru.spec.clip) if each is not None and single(np.float32(each)) != each]
    if rounded:
        notes.append(Note("changed", "constants", f"ONNX holds them as float32: {', '.join(map(str, rounded))}"))
    if gru.h0 is not None and "h0" in (plain or ()):
        notes.append(Note("changed", "the first state", "an input without a default there, so that it has to be given"))
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
