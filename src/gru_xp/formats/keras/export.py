"""A model as Keras's: a Sequential in a description, and its arrays."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from gru_xp.activations import Activation
from gru_xp.checks import sizes_of
from gru_xp.errors import BackendError, ConversionError, GRUError
from gru_xp.formats.layouts import FOLDED_ALL, is_nothing, to_keras
from gru_xp.stored import Note, Report, StoredGRU, assert_spec

from .layer import BACKWARDS, KEPT

__all__ = ["hdf5_of", "sequential"]


def sequential(gru: StoredGRU) -> tuple[dict[str, Any], dict[str, list[np.ndarray]], Report]:
    """The description of a Sequential model, its arrays by their paths, and what became of it."""
    knows = ("reset_after", "gate_activation", "candidate_activation", "padding", "reverse")
    assert_spec(gru, "Keras's GRU", *knows)
    sizes = sizes_of(gru.params)
    if gru.spec.reverse and sizes.L > 1:
        raise ConversionError(
            "reverse=True in several layers: Keras's go_backwards reverses y, so the next would read it"
        )
    notes = [KEPT]
    folded = not gru.spec.reset_after and any(
        w.b_hh is not None and not is_nothing(w.b_hh) for layer in gru.params for w in layer
    )
    if folded:
        notes = [FOLDED_ALL]
    if gru.spec.reverse:
        notes.append(BACKWARDS)
    if sizes.D == 2 and gru.spec.padding == "hold":
        notes.append(Note("changed", "padding='hold'", "Keras's Bidirectional puts zeros into the padding of y"))
    if not gru.batch_first:
        notes.append(Note("changed", "batch_first=False", "Keras's x and y are (N, T, ...)"))
    layers: list[dict[str, Any]] = [
        _entry("InputLayer", {"batch_shape": [None, None, sizes.I], "dtype": gru.dtype, "name": "input_layer"})
    ]
    arrays: dict[str, list[np.ndarray]] = {}
    for index, directions in enumerate(gru.params):
        count, shape = f"_{index}" if index else "", [None, None, sizes.I if index == 0 else sizes.D * sizes.H]
        if index and gru.dropout:
            layers.append(_entry("Dropout", {"name": f"dropout{count}", "rate": gru.dropout, "dtype": gru.dtype}))
        for d, w in enumerate(directions):
            place = ("" if sizes.D == 1 else ("/forward_layer", "/backward_layer")[d]) + "/cell"
            stem = "gru" if sizes.D == 1 else "bidirectional"
            arrays[f"layers/{stem}{count}{place}"] = to_keras(w, gru.dtype, reset_after=gru.spec.reset_after)
        config = _gru_config(gru, f"gru{count}")
        entry = _entry("GRU", config)
        if sizes.D == 2:
            forward, backward = (
                _entry("GRU", config | {"name": f"{way}_gru{count}", "go_backwards": way == "backward"})
                for way in ("forward", "backward")
            )
            options = {"merge_mode": "concat", "layer": forward, "backward_layer": backward, "dtype": gru.dtype}
            entry = _entry("Bidirectional", {"name": f"bidirectional{count}", **options})
        layers.append(entry | {"build_config": {"input_shape": shape}})
    model = {"name": "gru_xp", "trainable": True, "dtype": gru.dtype, "layers": layers}
    model |= {"build_input_shape": [None, None, sizes.I]}
    return _entry("Sequential", model, "keras"), arrays, Report(tuple(notes))


def _entry(kind: str, config: dict[str, Any], module: str = "keras.layers") -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


def _gru_config(gru: StoredGRU, name: str) -> dict[str, Any]:
    spec = gru.spec
    drawn = {
        "recurrent_initializer": "glorot_uniform"
    }  # its default draws orthogonal ones, which no 16-bit library can
    return {
        **(drawn if gru.dtype in ("float16", "bfloat16") else {}),
        "name": name,
        "trainable": True,
        "dtype": gru.dtype,
        "return_sequences": True,
        "go_backwards": spec.reverse,
        "zero_output_for_mask": spec.padding == "zero",
        "units": sizes_of(gru.params).H,
        "activation": _activation_name(spec.candidate_activation),
        "recurrent_activation": _activation_name(spec.gate_activation),
        "use_bias": gru.params[0][0].b_ih is not None,
        "reset_after": spec.reset_after,
    }


def _activation_name(activation: Activation) -> str:
    """Keras's name of it, if its constants are Keras's."""
    name = "linear" if activation.name == "affine" else activation.name
    try:
        known = Activation.keras(name) == activation and name not in ("scaled_tanh", "thresholded_relu")
    except GRUError:
        known = False
    if not known:
        raise ConversionError(f"the activation {activation} has no name in Keras")
    return name


def hdf5_of(arrays: dict[str, list[np.ndarray]], dtype: str) -> bytes:
    try:
        import h5py
    except ImportError:
        raise BackendError(
            "the library h5py is missing, which writing Keras's files needs; install it: "
            "python -m pip install 'gru-xp[keras]'"
        ) from None
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="earliest") as file:
        for path, each in arrays.items():
            group = file.create_group(f"{path}/vars")
            for index, array in enumerate(each):
                if dtype == "bfloat16":
                    halves = (np.ascontiguousarray(array, "<f4").view("<u4") >> 16).astype("<u2").view("V2")
                    group.create_dataset(str(index), data=halves).attrs["dtype"] = "bfloat16"
                else:
                    group.create_dataset(str(index), data=array)
    return buffer.getvalue()
