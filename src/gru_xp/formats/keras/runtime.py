"""Layers of a .keras or .h5 file, loaded and run by Keras itself: Keras 3, or tf_keras if Keras 2 wrote the file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.errors import BackendError
from gru_xp.stored import StoredGRU

from .files import model_in

__all__ = ["run_saved"]


def run_saved(path: Path, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any] | None:
    """y (T, N, D*H), h_n (L*D, N, H); None without Keras. A `BackendError` says what it cannot run."""
    config, dialect, _ = model_in(path)
    name = "keras" if dialect.major == 3 else "tf_keras"
    try:
        keras = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == "keras":
            return None
        if error.name == "tf_keras":
            raise BackendError(
                f"Keras {dialect.text} wrote it, whose functions are not all Keras 3's; tf_keras runs it: "
                "python -m pip install tf_keras tensorflow"
            ) from None
        raise BackendError(f"Keras cannot be imported ({error}); KERAS_BACKEND says on what it runs") from None
    if config is None or path.suffix not in (".keras", ".h5", ".hdf5"):
        raise BackendError("Keras needs a model for a file of arrays alone")
    try:
        return _run(keras, keras.models.load_model(path, compile=False), gru, x, h0, lengths)
    except BackendError:
        raise
    except Exception as error:  # layers of one's own that are not there, Lambda layers, batch sizes: of any kind
        words = " ".join(str(error).split())[:200]
        raise BackendError(f"Keras {keras.__version__} refuses: {type(error).__name__}: {words}") from None


def _run(keras: Any, model: Any, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any]:
    mask = None if lengths is None else np.arange(len(x)) < np.asarray(lengths)[:, None]
    if hasattr(keras, "ops"):
        values, tensor = keras.ops.convert_to_numpy, keras.ops.convert_to_tensor
    else:
        values, tensor = np.asarray, keras.backend.constant
    states: list[np.ndarray] = []
    y = x.transpose(1, 0, 2)
    if not gru.batch_first:
        y, mask = x, None if mask is None else mask.T
    time = 1 if gru.batch_first else 0
    for name in gru.name.split("+"):
        layer = _layer_of(model, name)
        ys = []
        # each direction by itself: Keras 3.15 trips over the states of merged ones
        for each in (layer.forward_layer, layer.backward_layer) if hasattr(layer, "backward_layer") else (layer,):
            each.return_sequences = each.return_state = True
            each.stateful = False
            more = len(each.cell.cells) if hasattr(each.cell, "cells") else 1
            given = None if h0 is None else [tensor(h) for h in h0[len(states) : len(states) + more]]
            out, *last = each(y, mask=mask, initial_state=given)
            ys.append(np.flip(values(out), axis=time) if each.go_backwards else values(out))
            states += [values(state) for state in _leaves(last)]
        y = np.concatenate(ys, axis=-1)
    return (y.transpose(1, 0, 2) if gru.batch_first else y), np.stack(states)


def _leaves(states: Any) -> list[Any]:
    return [leaf for each in states for leaf in _leaves(each)] if isinstance(states, list | tuple) else [states]


def _layer_of(model: Any, name: str) -> Any:
    try:
        for part in name.split("."):
            model = model.get_layer(part)
    except (AttributeError, ValueError):
        raise BackendError(f"Keras's model has no layer called {name}") from None
    return model
