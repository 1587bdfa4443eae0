"""The values of an ONNX graph that can be known without running it, found without trusting the file.

Initializers and Constant nodes are decoded when they are asked for. What only moves numbers about (exporters slice and
concatenate weights, and compute shapes) is evaluated by onnx's own reference evaluator, node by node, after its result
was found to be of a sensible size.
"""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gru_xp.errors import BackendError, ConversionError, FileFormatError
from gru_xp.formats.onnx.quantized import DOMAINS, INTEGERS, QUANTISING, quantised

__all__ = ["EVALUATED", "FLOATS", "MOVES", "Evaluation", "Graph", "Source", "Unknown", "library"]

ARITHMETIC = ("Add", "Div", "Mul", "Sub")
MOVES = (
    *("Cast", "Concat", "ConstantOfShape", "Dropout", "Expand", "Gather", "Identity", "Reshape", "Shape", "Slice"),
    *("Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
EVALUATED = frozenset((*ARITHMETIC, *MOVES))  # shapes are computed, too
DEPTH = 100  # of nodes behind one another that are evaluated; exporters need fewer than twenty
MOST = 64  # GRU nodes whose inputs are known to have the shape of one, and inputs that are looked at
WIDEST = 1000  # inputs of a node that is evaluated
FACTOR = 8  # bytes of work for each byte of a file: weights are decoded, cut, put together and reshaped
WIDENED = 32  # more for each byte of integers of 8 bits, which become four times as large with their scales
LEAST = 2**12  # bytes that evaluating a node counts for
FLOATS = ("float32", "float64", "float16", "bfloat16")


class Unknown(Exception):  # noqa: N818 - not an error: an answer
    """This value cannot be known without running the model; the message says why."""


def library() -> Any:
    """The package onnx."""
    try:
        import onnx
    except ImportError:
        raise BackendError(
            "the library onnx is missing, which .onnx files need; install it: python -m pip install 'gru-xp[onnx]'"
        ) from None
    return onnx


class Source:
    """What all graphs of a file share: where it lies, its opset, and how much work a file of that size can ask for.

    Weights may be shared by some nodes and shapes computed by some more; a million of them are an attack.
    """

    def __init__(self, path: Path, opset: int, size: int):
        self.path, self.opset = path, opset
        self.budget: float = 2**25 + FACTOR * size  # bytes
        self.read: set[str] = set()  # the names of the tensors that were decoded
        self._files: set[Path] = set()

    def external(self, tensor: Any, needed: int) -> bytes:
        """The bytes of a tensor that stands in another file, which has to lie in the model's folder or below it."""
        entries = {str(entry.key): str(entry.value) for entry in tensor.external_data}
        location = entries.get("location", "")
        parts = PurePosixPath(location.replace("\\", "/")).parts
        folder = self.path.parent.resolve()
        if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0] or "\0" in location:
            raise ConversionError(f"its numbers are said to lie in {location!r}, which leads out of the model's folder")
        try:
            file = folder.joinpath(*parts).resolve()
            if not file.is_relative_to(folder):
                raise ConversionError(f"its numbers are said to lie in {location!r}, a link out of the model's folder")
            if not file.is_file():
                raise ConversionError(f"its numbers lie in {location!r}, which is not there; put it beside the model")
            size = file.stat().st_size
        except OSError as error:
            raise ConversionError(f"its numbers are said to lie in {location[:80]!r}: {error.strerror}") from None
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or needed)
        except ValueError:
            raise ConversionError(f"its place in {location!r} is not given by numbers: {entries}") from None
        if length != needed or not 0 <= offset <= size - length:
            raise ConversionError(
                f"expected {needed} bytes in {location!r}, which has {size}, got {length} at {offset}: it is damaged"
            )
        if file not in self._files:
            self._files.add(file)
            self.budget += FACTOR * size
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(length)

    def spend(self, array: np.ndarray) -> np.ndarray:
        """Count an array that was decoded or evaluated; a node costs at least what it takes in time."""
        self.budget -= max(array.nbytes, LEAST)
        if self.budget < 0:
            raise FileFormatError(f"{self.path}: asks for more work than a model of its size can need")
        return array


class Graph:
    """One graph: who makes a value, who takes it, and what is constant. A subgraph sees the graph around it.

    `arguments` are the inputs that are no weights, with their shapes.
    `takes` holds what GRU nodes take for X, each with whether the batch comes first there.
    """

    def __init__(self, proto: Any, source: Source, outer: Graph | None = None):
        _assert_text(proto, source.path)
        self.proto, self.source, self.outer = proto, source, outer
        self.tensors = {tensor.name: tensor for tensor in proto.initializer}
        self.producers = {output: node for node in proto.node for output in node.output if output}
        self.inputs = {value.name: _shape_of(value) for value in proto.input}
        free = ((name, s) for name, s in self.inputs.items() if s is not None and name not in self.tensors)
        self.arguments = dict(islice(((name, s) for name, s in free if len(s) <= 4), MOST))
        self.shapes = {value.name: _shape_of(value) for value in proto.value_info} | self.inputs
        self.outputs = {value.name for value in proto.output}
        self.takes = [
            (node.input[0], any(a.name == "layout" and a.i for a in node.attribute))
            for node in proto.node
            if node.op_type == "GRU" and len(node.input)
        ][:MOST]
        self.tried: dict[bool, dict[str, np.ndarray]] = {}  # what `nodes.shapes_tried` has made of the arguments
        self.consumers: dict[str, list[Any]] = {}
        for node in proto.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)

    def subgraphs(self) -> list[tuple[Any, str, Graph]]:
        """The bodies of If, Loop, Scan, each with the node and the name of the attribute that it belongs to."""
        bodies = ((node, a) for node in self.proto.node for a in node.attribute)
        return [
            (node, str(a.name), Graph(body, self.source, self))
            for node, a in bodies
            for body in ([a.g] if a.HasField("g") else list(a.graphs))
        ]

    def constant(self, name: str) -> np.ndarray:
        """A value that does not depend on the model's input; `Unknown` if it does."""
        return Evaluation(self, {}).value(name)


class Evaluation:
    """Values of a graph, given some of them. Every value is computed once.

    `operators` are the kinds of the nodes that were.
    """

    def __init__(self, graph: Graph, given: dict[str, np.ndarray], outer: Evaluation | None = None):
        self.graph, self.known = graph, dict(given)
        self.operators: set[str] = set() if outer is None else outer.operators

    def value(self, name: str, depth: int = 0) -> np.ndarray:
        if name not in self.known:
            self.known[name] = self.graph.source.spend(self._computed(name, depth))
        return self.known[name]

    def _computed(self, name: str, depth: int) -> np.ndarray:
        graph = self.graph
        if depth > DEPTH:
            raise Unknown(f"more than {DEPTH} nodes stand behind {name!r}")
        if name in graph.tensors:
            array = self._decoded(graph.tensors[name])
            if array.dtype.itemsize == 1 and name not in graph.source.read:
                graph.source.budget += WIDENED * array.nbytes
            graph.source.read.add(name)
            return array
        if name in graph.producers:
            return self._evaluated(graph.producers[name], name, depth)
        if name in graph.inputs:
            raise Unknown(f"{name!r} is an input of the model")
        if graph.outer is not None:
            return Evaluation(graph.outer, {}, self).value(name, depth + 1)
        raise Unknown(f"{name!r} is not in the file")

    def _evaluated(self, node: Any, name: str, depth: int) -> np.ndarray:
        if node.op_type == "Constant":
            return self._constant(node, name)
        if node.domain not in DOMAINS[: 3 if node.op_type in QUANTISING else 2] or (
            node.op_type not in EVALUATED and node.op_type not in QUANTISING
        ):
            raise Unknown(f"{name!r} is computed by {node.op_type} while the model runs")
        if max(len(node.input), len(node.output), len(node.attribute)) > WIDEST:
            raise Unknown(
                f"{name!r} is computed by a {node.op_type} of more than {WIDEST} inputs, outputs or attributes"
            )
        if node.op_type == "Dropout":  # in inference
            return self.value(node.input[0], depth + 1)
        if any((a.HasField("t") and a.t.data_location) or a.HasField("g") or a.graphs for a in node.attribute):
            raise Unknown(f"{name!r}: {node.op_type} has an attribute that {node.op_type} lacks")
        try:
            arrays = [self.value(each, depth + 1) if each else None for each in node.input]
        except Unknown:
            shape = _said_shape(self.graph, node)
            if shape is None:
                raise
            return shape
        try:
            size = _size_of(node, arrays)
            if 8 * size > self.graph.source.budget or any(a is not None and a.ndim > 8 for a in arrays):
                raise Unknown(f"{name!r} would have {size} numbers")
            with np.errstate(all="ignore"):
                if node.op_type in QUANTISING:
                    result = quantised(node.op_type, arrays, {a.name: a.i for a in node.attribute})
                else:
                    results = _run(node, arrays, self.graph.source.opset)
                    result = np.asarray(results[list(node.output).index(name)])
        except (Unknown, MemoryError):
            raise
        except Exception as error:  # a hostile node fails in any way it likes
            raise Unknown(f"{name!r}: {node.op_type} cannot be evaluated: {str(error)[:200]}") from None
        if result.dtype.name not in (*FLOATS, *INTEGERS, "int64", "bool"):
            raise Unknown(f"{name!r} is of type {result.dtype}")
        self.operators.add(node.op_type)
        return result

    def _constant(self, node: Any, name: str) -> np.ndarray:
        for a in node.attribute:
            if a.name == "value":
                return self._decoded(a.t)
            if a.name in ("value_int", "value_ints"):
                return np.asarray(a.i if a.name == "value_int" else list(a.ints), np.int64)
            if a.name in ("value_float", "value_floats"):
                return np.asarray(a.f if a.name == "value_float" else list(a.floats), np.float32)
        raise Unknown(f"{name!r} is a constant of another kind than numbers")

    def _decoded(self, tensor: Any) -> np.ndarray:
        onnx = library()
        types = onnx.TensorProto
        sizes = {types.FLOAT: 4, types.DOUBLE: 8, types.FLOAT16: 2, types.BFLOAT16: 2, types.INT64: 8, types.INT32: 4}
        sizes |= {types.INT16: 2, types.UINT16: 2, types.INT8: 1, types.UINT8: 1, types.BOOL: 1}
        sizes |= {types.INT4: 0.5, types.UINT4: 0.5}  # two in a byte
        if tensor.data_type not in sizes:
            raise Unknown(f"{tensor.name!r} holds numbers of type {tensor.data_type}, expected floating point")
        if any(dim < 0 for dim in tensor.dims) or len(tensor.dims) > 8 or tensor.HasField("segment"):
            raise Unknown(f"{tensor.name!r} has a shape that means nothing: {list(tensor.dims)[:9]}")
        if tensor.data_location == types.EXTERNAL:
            needed = math.ceil(math.prod(tensor.dims) * sizes[tensor.data_type])
            data = self.graph.source.external(tensor, needed)
            tensor = types(dims=tensor.dims, data_type=tensor.data_type, raw_data=data)
        try:
            array = np.asarray(onnx.numpy_helper.to_array(tensor))
        except MemoryError:
            raise
        except Exception as error:  # shape and data do not agree, in any of many ways
            raise Unknown(f"{tensor.name!r} of shape {list(tensor.dims)} is damaged: {str(error)[:200]}") from None
        return array


def _assert_text(graph: Any, path: Path) -> None:
    """All names are text: protobuf hands out bytes where they are damaged."""
    names = [name for node in graph.node for name in (node.name, node.op_type, node.domain, *node.input, *node.output)]
    names += [a.name for node in graph.node for a in node.attribute]
    names += [each.name for each in (*graph.initializer, *graph.input, *graph.output, *graph.value_info)]
    if not all(isinstance(name, str) for name in names):
        raise FileFormatError(f"{path}: expected an ONNX model, but it is damaged: a name is no text")


def _run(node: Any, arrays: list[Any], opset: int) -> list[Any]:
    """One node, evaluated by the reference evaluator under the opset of the file."""
    onnx = library()
    from onnx.reference import ReferenceEvaluator

    given = {name: a for name, a in zip(node.input, arrays, strict=True) if a is not None}
    value = onnx.ValueInfoProto
    graph = onnx.GraphProto(name="one", node=[node])
    graph.input.extend(value(name=name) for name in given)
    graph.output.extend(value(name=name) for name in node.output if name)
    model = onnx.ModelProto(ir_version=8, graph=graph, opset_import=[onnx.OperatorSetIdProto(version=opset)])
    results = iter(ReferenceEvaluator(model).run(None, given))
    return [next(results) if name else None for name in node.output]


def _said_shape(graph: Graph, node: Any) -> np.ndarray | None:
    """What a Shape node gives of a value that is not known, if the file says all of those sizes."""
    sizes = graph.shapes.get(node.input[0]) if node.op_type == "Shape" and len(node.input) else None
    if sizes is None:
        return None
    options = {a.name: a.i for a in node.attribute}
    part = sizes[options.get("start", 0) : options.get("end", len(sizes))]
    return np.asarray(part, np.int64) if all(isinstance(size, int) and 0 < size < 2**31 for size in part) else None


def _size_of(node: Any, arrays: list[Any]) -> int:
    """An upper bound of how many numbers a node's result has, computed without computing it."""
    first = arrays[0]
    if node.op_type == "ConstantOfShape":
        return math.prod(int(n) for n in first)
    if node.op_type == "Expand":
        return _broadcast([first.shape, tuple(int(n) for n in arrays[1])])
    if node.op_type == "Tile":
        return int(first.size * math.prod(max(0, int(n)) for n in arrays[1].reshape(-1)))
    if node.op_type in ARITHMETIC:
        return _broadcast([a.shape for a in arrays])
    if node.op_type == "Gather":
        return int(first.size * max(arrays[1].size, 1))
    if node.op_type == "Split" and len(node.output) > 64:
        raise Unknown("split into more than 64 parts")
    if node.op_type == "Split" and any(a.name == "num_outputs" and a.i != len(node.output) for a in node.attribute):
        raise Unknown("split into another number of parts than it has outputs")
    return sum(a.size for a in arrays if a is not None)


def _broadcast(shapes: list[tuple[int, ...]]) -> int:
    rank = max(map(len, shapes))
    if rank > 8 or any(n < 0 for shape in shapes for n in shape):
        raise Unknown("a shape that means nothing")
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return math.prod(max(sizes) for sizes in zip(*padded, strict=True))


def _shape_of(value: Any) -> list[int | str] | None:
    """The sizes that a value is said to have; a name, or "" for unnamed, where a size is not fixed."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    return [
        dim.dim_value if dim.HasField("dim_value") else str(dim.dim_param) for dim in value.type.tensor_type.shape.dim
    ]
