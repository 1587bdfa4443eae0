"""RTNeural's JSON (https://github.com/jatinchowdhury18/RTNeural): Keras's layout in nested lists, layer by layer.

`parseJson` there asks of a GRU for "type", "shape", whose last number is H, and "weights": kernel, recurrent kernel and
both biases. A state_dict of PyTorch as JSON, which RTNeural's `torch_helpers::loadGRU` takes, is read too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.atomic import write_whole
from gru_xp.checks import sizes_of
from gru_xp.errors import ConversionError, FileFormatError, GRUError
from gru_xp.files import Format, Option
from gru_xp.formats.damage import reading
from gru_xp.formats.layouts import from_keras, to_keras
from gru_xp.formats.named import grus_in
from gru_xp.formats.names import NAMES
from gru_xp.formats.shards import INDEX
from gru_xp.params import weights_of
from gru_xp.stored import Contents, Note, Refusal, Report, StoredGRU, Tensor, assert_spec, stacked

__all__ = ["RTNeuralFormat", "rtneural"]

KEPT = Note("exact", "the weights")
DEEPEST = 8
LAYER = (
    Option("type", "read", "which layers are GRUs; those on one another are one stack"),
    Option("shape", "read", "hidden_size"),
    Option("weights", "read", "the weights, float32 where that holds them"),
    Option("activation", "noted", "RTNeural's GRU has tanh, whatever the file says, and so has this one"),
    Option("batch_first", "fixed", "False"),
)
SOURCES = {"RTNeural's layers": LAYER, "PyTorch's names in JSON": NAMES["PyTorch's names: weight_ih_l0"]}


class RTNeuralFormat(Format):
    """A chain of layers; GRUs on one another are one stack."""

    name = "rtneural"
    title = "RTNeural, or a state_dict in JSON (.json)"
    suffixes = (".json",)
    options = SOURCES

    def recognises(self, path: Path, head: bytes) -> bool:
        return super().recognises(path, head) and not INDEX.fullmatch(path.name) and b'"weight_map"' not in head

    def read(self, path: Path) -> Contents:
        text = path.read_bytes()
        with reading(path, "RTNeural's JSON"):
            content = json.loads(text)
            if isinstance(content, dict) and isinstance(content.get("layers"), list):
                return _chain(content["layers"])
            if isinstance(content, dict):
                return grus_in({name: _tensor(array) for name, array in content.items() if isinstance(array, list)})
            raise FileFormatError("a JSON file without layers and without arrays")

    def write(self, gru: StoredGRU, path: Path) -> Report:
        notes = [KEPT, *assert_spec(gru, "RTNeural's GRU")]
        sizes = sizes_of(gru.params)
        if sizes.D != 1:
            raise ConversionError("two directions: RTNeural's GRU has one")
        layers = []
        for (w,) in gru.params:
            if w.b_ih is None:
                w = w._replace(b_ih=np.zeros(3 * sizes.H), b_hh=np.zeros(3 * sizes.H))
            arrays = [array.tolist() for array in to_keras(w, gru.dtype, reset_after=True)]
            layers.append({"type": "gru", "activation": "", "shape": [None, None, sizes.H], "weights": arrays})
        try:
            text = json.dumps({"in_shape": [None, None, sizes.I], "layers": layers}, allow_nan=False)
        except ValueError:
            raise ConversionError("the weights hold what is no finite number, for which JSON has no words") from None
        write_whole(path, text.encode())
        if gru.dtype != "float32" and all(_numbers(a.tolist()).dtype == "f4" for a in weights_of(gru.params)):
            notes.append(Note("changed", f"dtype={gru.dtype}", "numbers in JSON have no type: read again as float32"))
        if not sizes.bias:
            notes.append(Note("changed", "no biases", "RTNeural's GRU has biases: they are zero"))
        if gru.dropout:
            notes.append(Note("ignored", f"dropout={gru.dropout}", "it acts in training alone"))
        return Report(tuple(notes))


rtneural = RTNeuralFormat()


def _chain(layers: list[Any]) -> Contents:
    towers: list[list[StoredGRU]] = []
    refused: list[Refusal] = []
    ignored: list[str] = []
    below = False  # whether the layer below is a GRU that was read
    for index, layer in enumerate(layers):
        name, kind = f"layers.{index}", layer.get("type")
        if kind != "gru":
            if kind == "lstm":
                refused.append(Refusal(name, "an LSTM"))
            else:
                ignored.append(f"{name} ({str(kind)[:40]})")
            below = False
            continue
        try:
            gru = _gru(layer, name)
        except FileFormatError:
            raise
        except GRUError as error:
            refused.append(Refusal(name, str(error)))
            below = False
            continue
        if below and towers[-1][-1].params[0][0].W_hh.shape == gru.params[0][0].W_hh.shape:
            towers[-1].append(gru)
        else:
            towers.append([gru])
        below = True
    grus = tuple(stacked(grus) if len(grus) > 1 else grus[0] for grus in towers)
    return Contents(grus, tuple(refused), tuple(ignored))


def _gru(layer: Mapping[str, Any], name: str) -> StoredGRU:
    arrays = [_numbers(array) for array in layer["weights"]]
    w, reset_after = from_keras(arrays)
    if reset_after is not True:
        raise ConversionError(f"expected both biases, (2, 3H), got {len(arrays)} arrays")
    if layer["shape"][-1] != w.W_hh.shape[1]:
        raise ConversionError(f"its shape says H = {str(layer['shape'][-1])[:20]}, its weights {w.W_hh.shape[1]}")
    sizes_of(((w,),))
    gru = StoredGRU(((w,),), name=name, dtype=str(w.W_hh.dtype), batch_first=False, report=Report((KEPT,)))
    if (activation := layer.get("activation")) not in (None, "", "tanh"):
        gru = gru.noted(Note("changed", f"activation={str(activation)[:40]}", LAYER[3].words))
    for key in layer.keys() - {option.name for option in LAYER}:
        gru = gru.noted(Note("changed", str(key)[:40], "not known here, and not used"))
    return gru


def _tensor(nested: list[Any]) -> Tensor:
    array = _numbers(nested)
    return Tensor(array.shape, array.dtype.name, lambda: array)


def _numbers(nested: Any) -> np.ndarray:
    """Nested lists of one shape, all numbers; float32 where that holds them exactly, as it does what was float32."""
    shape = []
    level = nested
    while isinstance(level, list):
        shape.append(len(level))
        if len(shape) > DEEPEST:
            raise FileFormatError(f"expected at most {DEEPEST} lists in one another")
        level = level[0] if level else None
    flat = list(_leaves(nested, shape))
    array = np.array(flat, "f8").reshape(shape)
    with np.errstate(over="ignore"):
        narrow = array.astype("f4")
    return narrow if np.array_equal(narrow.astype("f8"), array) else array


def _leaves(nested: Any, shape: list[int]) -> Iterator[float]:
    if shape:
        if not isinstance(nested, list) or len(nested) != shape[0]:
            raise FileFormatError("expected lists of one length in a list")
        for each in nested:
            yield from _leaves(each, shape[1:])
    elif type(nested) in (int, float) and math.isfinite(nested):
        yield float(nested)
    else:
        raise FileFormatError(f"expected a finite number, got {str(nested)[:40]}")
