"""One recurrent layer of Keras, by its class, its description and its arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gru_xp.checks import sizes_of
from gru_xp.errors import ConversionError
from gru_xp.formats.keras_arrays import cell_of
from gru_xp.params import GRUSpec
from gru_xp.stored import Note, Report, StoredGRU, Tensor

from .dialects import Dialect
from .options import notes_on

__all__ = ["BACKWARDS", "KEPT", "OTHER", "RECURRENT", "Arrays", "Step", "gru_of", "kind_of"]

KEPT = Note("exact", "the weights")

Step = str | tuple[int, int]  # into a part of a layer: "cell"; which of how many cells
Arrays = Callable[[tuple[Step, ...]], Sequence[Tensor]]  # of a part of a layer: ("forward_layer", "cell")
HOMES = ("keras.layers", "keras.src.layers", "tf_keras.layers", "tf_keras.src.layers")
OURS = {"gru_xp_keras>GRU": "GRU"}  # which computes what Keras's does, by the name that it is registered under
RECURRENT = ("GRU", "GRUCell", "RNN", "Bidirectional", "CuDNNGRU")
OTHER = ("LSTM", "SimpleRNN", "LSTMCell", "SimpleRNNCell", "CuDNNLSTM")


def gru_of(kind: str, config: Mapping[str, Any], arrays: Arrays, dialect: Dialect) -> StoredGRU | None:
    """One layer by its class and description; None if it is not a GRU's at all."""
    if kind == "Bidirectional":
        return _both(config, arrays, dialect)
    cells = _cells(kind, config)
    if cells is None:
        return None
    notes, params, specs, dtypes = [KEPT], [], [], []
    for cell_kind, cell, where in cells:
        cell = _modern(cell_kind, cell, dialect)
        w, dtype = cell_of(arrays(where), cell["use_bias"], cell["reset_after"], cudnn=cell_kind == "CuDNNGRU")
        if cell.get("units") != w.W_hh.shape[1]:
            raise ConversionError(f"its description says units={cell.get('units')!r:.20}, its arrays {w.W_hh.shape[1]}")
        params.append((w,))
        dtypes.append(dtype)
        specs.append(_spec(cell, config, dialect))
        notes += _notes_on_activations(cell, dialect)
        if cell_kind != kind:
            notes += notes_on(cell_kind, cell)
    if len({*dtypes}) != 1 or any(spec != specs[0] for spec in specs) or (specs[0].reverse and len(specs) > 1):
        raise ConversionError("expected cells of one kind on one another, forwards in time")
    sizes_of(tuple(params))
    notes += notes_on(_dialects_name(kind, dialect), config)
    if kind == "RNN" and kind_of(config["cell"]) == "StackedRNNCells":
        notes += notes_on("StackedRNNCells", config["cell"]["config"])
    if kind != "GRUCell":
        notes += _notes_on_layer(config)
    time_major = bool(config.get("time_major"))
    if time_major and kind == "CuDNNGRU" and specs[0].reverse:
        raise ConversionError("time_major with go_backwards: Keras's CuDNNGRU reverses the batch there, not time")
    return StoredGRU(
        tuple(params), specs[0], dtype=dtypes[0], batch_first=not time_major, report=Report(tuple(dict.fromkeys(notes)))
    )


def _cells(kind: str, config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any], tuple[Step, ...]]] | None:
    """The class and description of each cell of a layer, and where in it its arrays are."""
    if kind in ("GRU", "CuDNNGRU"):
        return [(kind, config, ("cell",) if kind == "GRU" else ())]
    if kind == "GRUCell":
        return [(kind, config, ())]
    if kind != "RNN":
        return None
    cell = config["cell"]
    if kind_of(cell) == "GRUCell":
        return [("GRUCell", cell["config"], ("cell",))]
    inner = cell["config"].get("cells", []) if kind_of(cell) == "StackedRNNCells" else []
    if inner and all(kind_of(each) == "GRUCell" for each in inner):
        return [("GRUCell", each["config"], ("cell", "cells", (i, len(inner)))) for i, each in enumerate(inner)]
    return None


def _dialects_name(kind: str, dialect: Dialect) -> str:
    """The class in the table of options."""
    return "Keras 1's GRU" if dialect.major == 1 and kind == "GRU" else kind


KERAS_1 = {"output_dim": "units", "inner_activation": "recurrent_activation"}  # as they are called since Keras 2


def _modern(kind: str, config: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """A cell's description with the options that some Kerases do not have, and what they compute instead."""
    cell = {KERAS_1.get(name, name) if dialect.major == 1 else name: value for name, value in config.items()}
    if dialect.major == 1:
        cell |= {"use_bias": True}
    if dialect.major < 3 and kind != "CuDNNGRU":
        cell.setdefault("reset_after", False)  # which Keras has had since 2.1.5
    if kind == "CuDNNGRU":
        cell |= {"use_bias": True, "reset_after": True, "activation": "tanh", "recurrent_activation": "sigmoid"}
    for name, wanted in (("use_bias", bool), ("reset_after", bool)):
        if not isinstance(cell.get(name), wanted):
            raise ConversionError(f"{name}: expected True or False in its description, got {cell.get(name)!r:.60}")
    for name in ("activation", "recurrent_activation"):
        if name not in cell:
            raise ConversionError(f"its description lacks {name}")
    return cell


def _both(config: Mapping[str, Any], arrays: Arrays, dialect: Dialect) -> StoredGRU | None:
    first_layer, second_layer = config.get("layer"), config.get("backward_layer")
    if second_layer is None and dialect.major < 3 and isinstance(first_layer, Mapping):
        inner = first_layer["config"]  # Keras 3 alone describes the layer that it makes of the first
        second_layer = {**first_layer, "config": {**inner, "go_backwards": not inner.get("go_backwards")}}
    halves = []
    for layer, name in ((first_layer, "forward_layer"), (second_layer, "backward_layer")):
        kind = kind_of(layer)
        if layer is None or kind not in ("GRU", "RNN", "CuDNNGRU"):
            return None
        half = gru_of(kind, layer["config"], _below(arrays, name), dialect)
        if half is None:
            return None
        if dialect.zeroes_both:
            half = _with(half, padding="zero" if layer["config"].get("return_sequences") else "hold")
        halves.append(half)
    first, second = halves
    if first.spec.reverse or not second.spec.reverse:
        raise ConversionError("expected go_backwards of the backward layer alone")
    if _with(second, reverse=False).spec != first.spec or first.dtype != second.dtype:
        raise ConversionError("expected the same equations in both directions")
    if first.batch_first != second.batch_first:
        raise ConversionError("expected time_major of both directions or of none")
    if len(first.params) != 1 or len(second.params) != 1:
        raise ConversionError("stacked cells in two directions: its layers do not see one another's other direction")
    params = ((first.params[0][0], second.params[0][0]),)
    sizes_of(params)
    notes = dict.fromkeys((*first.report.notes, *second.report.notes, *notes_on("Bidirectional", config)))
    return replace(first, params=params, report=Report(tuple(note for note in notes if note != BACKWARDS)))


def _below(arrays: Arrays, name: str) -> Arrays:
    return lambda where: arrays((name, *where))


def _with(gru: StoredGRU, **changes: Any) -> StoredGRU:
    spec = {name: getattr(gru.spec, name) for name in gru.spec.as_dict()}
    return replace(gru, spec=GRUSpec(**(spec | changes)))


def _spec(cell: Mapping[str, Any], layer: Mapping[str, Any], dialect: Dialect) -> GRUSpec:
    return GRUSpec(
        reset_after=cell["reset_after"],
        gate_activation=dialect.activation(cell["recurrent_activation"]),
        candidate_activation=dialect.activation(cell["activation"]),
        reverse=layer.get("go_backwards", False),
        padding="zero" if layer.get("zero_output_for_mask", False) else "hold",
    )


BACKWARDS = Note("changed", "go_backwards", "y stands in the order of the input here, in the reverse order there")


UNROLLED = Note(
    "changed",
    "unroll with zero_output_for_mask",
    "y is zero in the padding here, as it is where Keras runs on PyTorch and TensorFlow; on JAX and NumPy its unrolled "
    "GRU repeats the last output",
)


def _notes_on_activations(cell: Mapping[str, Any], dialect: Dialect) -> list[Note]:
    """Of functions that Keras 2 knows by the names that users gave them."""
    return [
        Note("assumed", f"{name}=leaky_relu", "which is no name of Keras's before 3; taken to be tf.nn.leaky_relu, 0.2")
        for name in ("activation", "recurrent_activation")
        if cell[name] == "leaky_relu" and dialect.major < 3
    ]


def _notes_on_layer(config: Mapping[str, Any]) -> list[Note]:
    notes = [BACKWARDS] if config.get("go_backwards") else []
    if config.get("unroll") and config.get("zero_output_for_mask"):
        notes.append(UNROLLED)
    return notes


def kind_of(entry: Any) -> str:
    """The class of a described layer; "" for one that is not Keras's own.

    Keras 1 and 2 and the .h5 files of 3 say the class alone, so that a class of somebody's own may have the same name;
    its options then are not Keras's.
    """
    if not isinstance(entry, Mapping):
        return ""
    kind, home, registered = str(entry.get("class_name")), entry.get("module"), entry.get("registered_name")
    if home is None and registered is None:
        return kind if kind.isidentifier() else ""
    if registered in OURS:
        return OURS[str(registered)]
    if registered not in (None, kind):
        return ""
    return kind if any(str(home) == each or str(home).startswith(f"{each}.") for each in HOMES) else ""
