"""Layers of a .keras file, loaded and run by Keras itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.errors import BackendError
from gru_xp.formats.stored import StoredGRU

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
    model = keras.saving.load_model(path, compile=False)
    mask = None if lengths is None else np.arange(len(x)) < np.asarray(lengths)[:, None]
    states: list[Any] = []
    y = x.transpose(1, 0, 2)
    for name in gru.name.split("+"):
        layer = _layer_of(model, name)
        both = hasattr(layer, "backward_layer")
        for each in (layer, layer.forward_layer, layer.backward_layer) if both else (layer,):
            each.return_sequences = each.return_state = True
        more = sum(1 for _ in layer.cell.cells) if not both and hasattr(layer.cell, "cells") else 1 + both
        given = None if h0 is None else list(h0[len(states) : len(states) + more])
        y, *last = layer(y, mask=mask, initial_state=given)
        if not both and layer.go_backwards:
            y = keras.ops.flip(y, axis=1)
        states += keras.tree.flatten(last)
    values = keras.ops.convert_to_numpy
    return values(y).transpose(1, 0, 2), np.stack([values(state) for state in states])


def _layer_of(model: Any, name: str) -> Any:
    try:
        for part in name.split("."):
            model = model.get_layer(part)
    except (AttributeError, ValueError):
        raise BackendError(f"Keras's model has no layer called {name}") from None
    return model
