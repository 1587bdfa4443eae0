"""One recurrent layer of Keras, by its class, its description and its arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gru_xp.activations import Activation
from gru_xp.checks import sizes_of
from gru_xp.errors import ConversionError
from gru_xp.formats.layouts import from_keras
from gru_xp.formats.named import Tensor
from gru_xp.params import CellParams, GRUSpec
from gru_xp.stored import FLOATS, Note, Report, StoredGRU

__all__ = ["BACKWARDS", "KEPT", "OTHER", "RECURRENT", "Arrays", "gru_of", "kind_of", "read_all"]

KEPT = Note("exact", "the weights")

Arrays = Callable[[tuple[str | int, ...]], Sequence[Tensor]]  # of a part of a layer: ("forward_layer", "cell")
HOMES = ("keras.layers", "keras.src.layers")
RECURRENT = ("GRU", "GRUCell", "RNN", "Bidirectional")
OTHER = ("LSTM", "SimpleRNN", "LSTMCell", "SimpleRNNCell")


def gru_of(kind: str, config: Mapping[str, Any], arrays: Arrays) -> StoredGRU | None:
    """One layer by its class and description; None if it is not a GRU's at all."""
    if kind == "Bidirectional":
        return _both(config, arrays)
    cells = _cells(kind, config)
    if cells is None:
        return None
    notes, params, specs, dtypes = [KEPT], [], [], []
    for cell, where in cells:
        w, dtype = _cell(cell, arrays(where))
        params.append((w,))
        dtypes.append(dtype)
        specs.append(_spec(cell, config))
        notes += _notes_on_cell(cell)
    if len({*dtypes}) != 1 or any(spec != specs[0] for spec in specs) or (specs[0].reverse and len(specs) > 1):
        raise ConversionError("expected cells of one kind on one another, forwards in time")
    sizes_of(tuple(params))
    notes += _notes_on_layer(config) if kind != "GRUCell" else []
    return StoredGRU(tuple(params), specs[0], dtype=dtypes[0], batch_first=True, report=Report(tuple(notes)))


def _cells(kind: str, config: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], tuple[str | int, ...]]] | None:
    """The descriptions of a layer's cells, and where in it they are."""
    if kind == "GRU":
        return [(config, ("cell",))]
    if kind == "GRUCell":
        return [(config, ())]
    if kind != "RNN":
        return None
    cell = config["cell"]
    if kind_of(cell) == "GRUCell":
        return [(cell["config"], ("cell",))]
    inner = cell["config"].get("cells", []) if kind_of(cell) == "StackedRNNCells" else []
    if inner and all(kind_of(each) == "GRUCell" for each in inner):
        return [(each["config"], ("cell", "cells", index)) for index, each in enumerate(inner)]
    return None


def _both(config: Mapping[str, Any], arrays: Arrays) -> StoredGRU | None:
    halves, names = [], ("forward_layer", "backward_layer")
    for key, name in zip(("layer", "backward_layer"), names, strict=True):
        half = config.get(key)
        kind = kind_of(half)
        if half is None or kind not in ("GRU", "RNN"):
            return None
        halves.append(gru_of(kind, half["config"], _below(arrays, name)))
    first, second = halves
    if first is None or second is None:
        return None
    if first.spec.reverse or _turned(second.spec, True) != second.spec:
        raise ConversionError("expected go_backwards of the backward layer alone")
    if _turned(second.spec, False) != first.spec or first.dtype != second.dtype:
        raise ConversionError("expected the same equations in both directions")
    if len(first.params) != 1 or len(second.params) != 1:
        raise ConversionError("stacked cells in two directions: its layers do not see one another's other direction")
    params = ((first.params[0][0], second.params[0][0]),)
    sizes_of(params)
    notes = [note for note in dict.fromkeys(first.report.notes + second.report.notes) if note != BACKWARDS]
    if (mode := config.get("merge_mode")) != "concat":
        notes.append(Note("changed", f"merge_mode={mode!r}", "y holds both directions side by side here"))
    return replace(first, params=params, report=Report(tuple(notes)))


def _below(arrays: Arrays, name: str) -> Arrays:
    return lambda where: arrays((name, *where))


def _turned(spec: GRUSpec, reverse: bool) -> GRUSpec:
    return GRUSpec.from_dict(spec.as_dict() | {"reverse": reverse})


def _cell(config: Mapping[str, Any], tensors: Sequence[Tensor]) -> tuple[CellParams, str]:
    if not tensors:
        raise ConversionError("it has no arrays: it was never built")
    found = {tensor.dtype for tensor in tensors}
    if len(found) != 1 or not found <= {*FLOATS}:
        raise ConversionError(f"expected arrays of one of {', '.join(FLOATS)}, got {', '.join(sorted(found))}")
    w, reset_after = from_keras(read_all(tensors))
    if (w.b_ih is not None) != config["use_bias"] or reset_after not in (None, config["reset_after"]):
        raise ConversionError("its description and the shape of its bias do not agree")
    return w, found.pop()


def read_all(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    """Shapes first, so that what is no GRU is not read."""
    if len(tensors) > 3 or any(len(tensor.shape) > 2 for tensor in tensors):
        raise ConversionError(f"expected two or three arrays, got {[tensor.shape for tensor in tensors][:5]}")
    return [tensor.read() for tensor in tensors]


def _spec(cell: Mapping[str, Any], layer: Mapping[str, Any]) -> GRUSpec:
    return GRUSpec(
        reset_after=cell["reset_after"],
        gate_activation=_activation(cell["recurrent_activation"]),
        candidate_activation=_activation(cell["activation"]),
        reverse=layer.get("go_backwards", False),
        padding="zero" if layer.get("zero_output_for_mask", False) else "hold",
    )


def _activation(given: Any) -> Activation:
    if isinstance(given, Mapping):  # an object with a description of its own
        kind = given.get("class_name") or "lambda"
        raise ConversionError(f"the activation {kind!r} is an object of its own, not a name")
    return Activation.keras("linear" if given is None else given)


BACKWARDS = Note("changed", "go_backwards", "y stands in the order of the input here, in the reverse order there")


UNROLLED = Note(
    "changed",
    "unroll with zero_output_for_mask",
    "y is zero in the padding here, as it is where Keras runs on PyTorch and TensorFlow; on JAX and NumPy its unrolled "
    "GRU repeats the last output",
)


def _notes_on_cell(config: Mapping[str, Any]) -> list[Note]:
    notes = [
        Note("ignored", f"{name}={config[name]}", "it acts in training alone")
        for name in ("dropout", "recurrent_dropout")
        if config.get(name)
    ]
    policy = _policy(config.get("dtype"))
    if policy.startswith("mixed"):
        notes.append(Note("changed", f"the policy {policy}", "everything is computed in the type of the weights here"))
    return notes


def _policy(dtype: Any) -> str:
    if isinstance(dtype, Mapping):
        dtype = dtype.get("config", {}).get("name")
    return str(dtype)


def _notes_on_layer(config: Mapping[str, Any]) -> list[Note]:
    notes = [BACKWARDS] if config.get("go_backwards") else []
    if not config.get("return_sequences"):
        notes.append(Note("ignored", "return_sequences=False", "y and h_n always come both; its output is h_n"))
    if config.get("unroll") and config.get("zero_output_for_mask"):
        notes.append(UNROLLED)
    if config.get("stateful"):
        notes.append(Note("ignored", "stateful=True", "pass h_n of one call as h0 of the next"))
    return notes


def kind_of(entry: Any) -> str:
    """The class of a described layer; "" for one that is not Keras's own."""
    if not isinstance(entry, Mapping) or entry.get("registered_name") is not None:
        return ""
    module = str(entry.get("module"))
    return (
        str(entry.get("class_name")) if any(module == home or module.startswith(f"{home}.") for home in HOMES) else ""
    )
