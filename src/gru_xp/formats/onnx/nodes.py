"""One GRU node of an ONNX graph, read: its weights in this library's layout, its options, where it is.

`operator.py` has ONNX's layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gru_xp.activations import Activation
from gru_xp.errors import ConversionError, GRUError
from gru_xp.formats.layouts import swapped
from gru_xp.formats.onnx.constants import FLOATS, Evaluation, Graph, Unknown
from gru_xp.formats.onnx.narrow import narrow_of, told
from gru_xp.formats.onnx.operator import ACTIVATIONS, DIRECTIONS, single
from gru_xp.formats.onnx.options import ATTRIBUTES
from gru_xp.narrow import Narrow
from gru_xp.params import CellParams, GRUSpec
from gru_xp.stored import Note

__all__ = ["GRUNode", "name_of", "read_node", "shapes_tried", "time_and_batch"]

SIZES = (5, 3)  # T and N that a model is tried with where it fixes none


@dataclass(frozen=True, eq=False)
class GRUNode:
    """A node that could be read. `W`, `R`, `B` are as in the file, for the runtime."""

    name: str
    index: int  # in the order of the graph
    proto: Any
    graph: Graph
    params: tuple[CellParams, ...]  # a layer
    spec: GRUSpec
    dtype: str
    layout: int
    h0: Any  # (D, H) or (D, N, H) where the file fixes it, else None
    notes: tuple[Note, ...]
    narrow: Narrow | None  # of this layer
    W: np.ndarray
    R: np.ndarray
    B: np.ndarray | None

    @property
    def D(self) -> int:
        return len(self.params)

    @property
    def H(self) -> int:
        return self.params[0].W_hh.shape[1]

    def input(self, index: int) -> str:
        """The name of an input, or ""."""
        return _input(self.proto, index)

    @property
    def y(self) -> str:
        return self.proto.output[0] if len(self.proto.output) > 0 else ""


def name_of(node: Any, index: int) -> str:
    """Where the node stands in the model: PyTorch's name of the module, or the folders of the node's name."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = re.findall(r"'([^']*)'", str(entry.value)[:4000])
            if len(scopes) > 1 and scopes[-2]:
                return str(scopes[-2])
    folders = [part for part in node.name[:1000].split("/") if part]
    return ".".join(folders[:-1]) or node.name[:1000] or f"GRU_{index}"


def read_node(node: Any, graph: Graph, name: str, index: int) -> GRUNode:
    """All of a GRU node; a `ConversionError` where it cannot be had here, with the reason."""
    options = _options(node)
    direction = options.get("direction", "forward")
    if direction not in DIRECTIONS:
        raise ConversionError(f"direction: expected one of {', '.join(DIRECTIONS)}, got {direction[:40]!r}")
    if options.get("layout", 0) not in (0, 1):
        raise ConversionError(f"layout: expected 0 or 1, got {options['layout']}")
    known = Evaluation(graph, {})
    W, R = (_weight(known, node, index, letter) for index, letter in ((1, "W"), (2, "R")))
    B = _weight(known, node, 3, "B") if _input(node, 3) else None
    params = _params(W, R, B, 2 if direction == "bidirectional" else 1, options.get("hidden_size"))
    gate, candidate = _activations(options, len(params))
    try:
        spec = GRUSpec(
            reset_after=options.get("linear_before_reset", 0) != 0,
            gate_activation=gate,
            candidate_activation=candidate,
            clip=single(options["clip"]) if options.get("clip", math.inf) != math.inf else None,  # inf binds nothing
            reverse=direction == "reverse",
        )
    except GRUError as error:
        raise ConversionError(str(error)) from None
    layout = options.get("layout", 0)
    h0, notes = _first_state(graph, node, layout, len(params), R.shape[2])
    if _input(node, 4):
        notes += _of_lengths(graph, node, layout)
    narrow = narrow_of(known, (_input(node, 1), _input(node, 2)), (W, R))
    notes += told(known, narrow)
    params = tuple(CellParams(*(None if a is None else _held(a) for a in w)) for w in params)
    return GRUNode(name, index, node, graph, params, spec, W.dtype.name, layout, h0, notes, narrow, W, R, B)


def _options(node: Any) -> dict[str, Any]:
    """The attributes by name, each of the type that it has to have."""
    types = {"i": 2, "f": 1, "s": 3, "floats": 6, "strings": 8}  # AttributeProto.AttributeType
    found: dict[str, Any] = {}
    for a in node.attribute:
        kind = ATTRIBUTES.get(a.name)
        if kind is None:
            raise ConversionError(f"has an attribute that ONNX's GRU lacks: {a.name[:40]!r}")
        if a.type != types[kind]:
            raise ConversionError(f"{a.name}: expected an attribute of type {types[kind]}, got {a.type}")
        value = getattr(a, kind)
        if kind == "s":
            value = value.decode("utf-8", "replace")
        found[a.name] = (
            [each.decode("utf-8", "replace") for each in value]
            if kind == "strings"
            else list(value)
            if kind == "floats"
            else value
        )
    return found


def _weight(known: Evaluation, node: Any, index: int, letter: str) -> np.ndarray:
    if not _input(node, index):
        raise ConversionError(f"has no {letter}")
    try:
        array = known.value(_input(node, index))
    except Unknown as reason:
        same = _whatever_comes(known.graph, _input(node, index))
        if same is None:
            raise ConversionError(f"{letter} is not in the file as numbers: {reason}") from None
        array = same
    if array.dtype.name not in FLOATS:
        raise ConversionError(f"{letter}: expected one of {', '.join(FLOATS)}, got {array.dtype}")
    return array


def _whatever_comes(graph: Graph, name: str) -> np.ndarray | None:
    """A value that is made with the help of the model's input, but is the same whatever that is.

    PyTorch's exporter cuts weights at H, which it takes from the shape of the first state, unless it optimises.
    """
    first, second = shapes_tried(graph, graph.takes)
    try:
        value = Evaluation(graph, first).value(name)
        other = Evaluation(graph, {each: -a for each, a in second.items()}).value(name)
    except Unknown:
        return None
    return value if np.array_equal(value, other) else None


def _params(W: Any, R: Any, B: Any, D: int, hidden_size: int | None) -> tuple[CellParams, ...]:
    """The layer in this library's layout, from arrays that fit together."""
    H = R.shape[-1] if R.ndim == 3 else 0
    shapes = f"W {W.shape}, R {R.shape}" + ("" if B is None else f", B {B.shape}")
    fits = R.shape == (D, 3 * H, H) and H > 0 and W.ndim == 3 and W.shape[:2] == (D, 3 * H)
    if not fits or (B is not None and B.shape != (D, 6 * H)):
        raise ConversionError(f"expected W (D, 3H, I), R (D, 3H, H), B (D, 6H) with D = {D}, got {shapes}")
    if hidden_size is not None and hidden_size != H:
        raise ConversionError(f"hidden_size is {hidden_size}, but R says {H}")
    if len({a.dtype.name for a in (W, R, B) if a is not None}) > 1:
        raise ConversionError(f"W, R and B are of different types: {W.dtype}, {R.dtype}")
    biases: list[tuple[Any, Any]] = [(None, None) if B is None else (B[d, : 3 * H], B[d, 3 * H :]) for d in range(D)]
    return tuple(CellParams(*(None if a is None else swapped(a) for a in (W[d], R[d], *biases[d]))) for d in range(D))


def _activations(options: dict[str, Any], D: int) -> tuple[Activation, Activation]:
    """f and g. Constants are handed out in order to those that have any, as onnxruntime does."""
    names = options.get("activations") or ["Sigmoid", "Tanh"] * D
    if len(names) != 2 * D:
        raise ConversionError(f"activations: expected {2 * D} names, got {names[:8]}")
    letters = {each.lower(): each for each in ACTIVATIONS}
    constants = {"alpha": list(options.get("activation_alpha", ())), "beta": list(options.get("activation_beta", ()))}
    found = []
    for name in names:
        if name.lower() not in letters:
            raise ConversionError(f"activations: expected ONNX's {', '.join(ACTIVATIONS)}, got {name[:40]!r}")
        has = ACTIVATIONS[letters[name.lower()]].split()
        given = {letter: single(constants[letter].pop(0)) for letter in has if constants.get(letter)}
        if "required" in has and len(given) < 2:
            raise ConversionError(
                f"activations: {name} has no activation_alpha or activation_beta, which have no default in ONNX"
            )
        try:
            found.append(Activation(name, **given))
        except GRUError as error:
            raise ConversionError(f"activations: {name}: {error}") from None
    if found[:2] != found[2 * D - 2 :]:
        raise ConversionError(
            f"activations: the directions have different ones, {', '.join(map(str, found))}; here both have the same"
        )
    return found[0], found[1]


def _first_state(graph: Graph, node: Any, layout: int, D: int, H: int) -> tuple[Any, tuple[Note, ...]]:
    """(D, H), or (D, N, H), if the file fixes it, and what to say of it. That of an input is an argument here too."""
    name = _input(node, 5)
    if not name:
        return None, ()
    value = None
    for given in ({}, *shapes_tried(graph, [(_input(node, 0), bool(layout)), *graph.takes])):
        try:
            value = Evaluation(graph, given).value(name)
            other = Evaluation(graph, {each: -a for each, a in given.items()}).value(name)
        except Unknown:
            continue
        if not np.array_equal(value, other):
            return None, ()  # made of an input, so it is an argument there too
        break
    if value is None:
        if name in graph.inputs:
            return None, ()
        return None, (Note("changed", "the first state", "the model computes it, here it is zero: pass it as h0"),)
    if not value.any():
        return None, ()
    h0 = value.transpose(1, 0, 2) if layout and value.ndim == 3 else value
    if h0.ndim != 3 or h0.shape[0] != D or h0.shape[2] != H:
        raise ConversionError(f"initial_h: expected (D, N, H) = ({D}, N, {H}), got {value.shape}")
    h0 = _held(h0)
    if h0.shape[1] and (h0 == h0[:, :1]).all():
        h0 = h0[:, 0]
    return h0, (
        Note(
            "changed",
            "the first state",
            "the file fixes one, here it is zero: pass `files.contents`' h0 as h0 (--h0)",
        ),
    )


def _of_lengths(graph: Graph, node: Any, layout: int) -> tuple[Note, ...]:
    """What to say of sequence_lens: an input of the model is an argument here too, and all steps are no lengths."""
    try:
        lengths = graph.constant(_input(node, 4))
    except Unknown:
        return ()
    sizes = graph.shapes.get(_input(node, 0)) or []
    if len(sizes) == 3 and np.all(lengths == sizes[1 if layout else 0]):
        return ()
    return (
        Note(
            "changed",
            "the lengths",
            f"the file fixes them, {str(lengths.tolist())[:60]}: pass them as lengths (--lengths)",
        ),
    )


def shapes_tried(graph: Graph, takes: list[tuple[str, bool]]) -> Iterator[dict[str, np.ndarray]]:
    """Values for the inputs of a graph and for what GRU nodes take there, so that shapes can be computed from them.

    Nothing says which axis is time, so both orders are tried; no value is zero.
    """
    for batch_first in (False, True):
        if batch_first not in graph.tried:
            graph.tried[batch_first] = _arguments(graph, batch_first)
        given = dict(graph.tried[batch_first])
        for x, layout in takes:
            T, N = time_and_batch(graph, x, layout, batch_first)
            given.setdefault(x, np.ones((N, T, 1) if layout else (T, N, 1), np.float32))
            maker = graph.producers.get(x)
            if maker is not None and maker.op_type == "Transpose" and len(maker.input):
                given.setdefault(maker.input[0], np.ones((T, N, 1) if layout else (N, T, 1), np.float32))
        yield given


def _arguments(graph: Graph, batch_first: bool) -> dict[str, np.ndarray]:
    """Values for the inputs of a graph, none of them zero."""
    named: dict[str, int] = {}
    given: dict[str, np.ndarray] = {}
    left = 2**18
    for name, shape in graph.arguments.items():
        if len(shape) > 1 and not given:
            named |= {str(size): n for size, n in zip(shape, SIZES[:: -1 if batch_first else 1], strict=False)}
        sizes = [size if isinstance(size, int) else named.get(size, SIZES[1]) for size in shape]
        if 0 < math.prod(sizes) < min(2**16, left):
            left -= math.prod(sizes)
            given[name] = np.arange(1, math.prod(sizes) + 1, dtype=np.float32).reshape(sizes)
    return given


def time_and_batch(graph: Graph, x: str, layout: bool, batch_first: bool) -> tuple[int, int]:
    """T and N to try a model with: those that it fixes, else small ones that are neither equal nor 1."""
    axes = graph.shapes.get(x) or []
    if len(axes) != 3:
        layout = batch_first
        axes = next((shape for shape in graph.arguments.values() if len(shape) > 1), [0, 0])
    axes = axes[:2][:: -1 if layout else 1]
    T, N = (size if isinstance(size, int) and 0 < size < 2**12 else n for size, n in zip(axes, SIZES, strict=True))
    return T, N


def _held(array: np.ndarray) -> np.ndarray:
    """Native and contiguous; bfloat16 as float32, which holds it."""
    return np.ascontiguousarray(array, dtype=np.float32 if array.dtype.name == "bfloat16" else array.dtype.name)


def _input(node: Any, index: int) -> str:
    return str(node.input[index]) if len(node.input) > index else ""
