"""Layers of a .keras file, loaded and run by Keras itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.errors import BackendError
from gru_xp.stored import StoredGRU

__all__ = ["run_saved"]


def run_saved(path: Path, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any] | None:
    """y (T, N, D*H), h_n (L*D, N, H); None without Keras. A `BackendError` says what it cannot run."""
    try:
        import keras
    except ModuleNotFoundError as error:
        if error.name == "keras":
            return None
        raise BackendError(f"Keras cannot be imported ({error}); KERAS_BACKEND says on what it runs") from None
    if path.suffix != ".keras":
        raise BackendError("Keras needs a model for a file of arrays alone")
    try:
        return _run(keras, keras.saving.load_model(path, compile=False), gru, x, h0, lengths)
    except BackendError:
        raise
    except Exception as error:  # layers of one's own that are not there, Lambda layers, batch sizes: of any kind
        words = " ".join(str(error).split())[:200]
        raise BackendError(f"Keras {keras.__version__} refuses: {type(error).__name__}: {words}") from None


def _run(keras: Any, model: Any, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any]:
    mask = None if lengths is None else np.arange(len(x)) < np.asarray(lengths)[:, None]
    states: list[Any] = []
    y = x.transpose(1, 0, 2)
    for name in gru.name.split("+"):
        layer = _layer_of(model, name)
        ys = []
        # each direction by itself: Keras 3.15 trips over the states of merged ones
        for each in (layer.forward_layer, layer.backward_layer) if hasattr(layer, "backward_layer") else (layer,):
            each.return_sequences = each.return_state = True
            each.stateful = False
            more = len(each.cell.cells) if hasattr(each.cell, "cells") else 1
            given = None if h0 is None else list(h0[len(states) : len(states) + more])
            out, *last = each(y, mask=mask, initial_state=given)
            ys.append(keras.ops.flip(out, axis=1) if each.go_backwards else out)
            states += keras.tree.flatten(last)
        y = keras.ops.concatenate(ys, axis=-1)
    values = keras.ops.convert_to_numpy
    return values(y).transpose(1, 0, 2), np.stack([values(state) for state in states])


def _layer_of(model: Any, name: str) -> Any:
    try:
        for part in name.split("."):
            model = model.get_layer(part)
    except (AttributeError, ValueError):
        raise BackendError(f"Keras's model has no layer called {name}") from None
    return model
