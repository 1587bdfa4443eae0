"""The format: Keras's files and live objects, in and out."""

from __future__ import annotations

import io
import json
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

from gru_xp.atomic import write_whole
from gru_xp.files import Format
from gru_xp.formats.damage import reading
from gru_xp.formats.hdf5 import SIGNATURE, UnreadKindError
from gru_xp.formats.trees import library_of
from gru_xp.stored import Contents, Note, Report, StoredGRU

from .export import hdf5_of, sequential
from .files import IncompleteError, model_in
from .live import Live
from .options import SOURCES
from .runtime import run_saved
from .walk import Walk
from .weights import grus_of_weights, is_weights

__all__ = ["KerasFormat", "keras"]


UNTOLD = "such a file holds arrays alone; load it into a model of the same layers, or write .keras"
INDEX = ".weights.json"  # of weights in several files
TENSORFLOW_JS = (b'"layers-model"', b'"graph-model"', b'"modelTopology"', b'"weightsManifest"')


class KerasFormat(Format):
    """Every GRU layer: `GRU`, `RNN` around `GRUCell`s, `Bidirectional`; stacks where a model says that they are."""

    name = "keras"
    title = "Keras 1 to 3 (.keras, .weights.h5, .h5, a live layer or model), TensorFlow.js's layers (model.json)"
    suffixes = (".keras", ".weights.h5")
    runtime = "keras"
    options = SOURCES

    def recognises(self, path: Path, head: bytes) -> bool:
        """By the ending, by HDF5's first bytes, or by what TensorFlow.js's JSON begins with."""
        if head.lstrip()[:1] == b"{":
            return path.name.endswith(INDEX) or any(word in head for word in TENSORFLOW_JS)
        return super().recognises(path, head) or head.startswith(SIGNATURE)

    def recognises_folder(self, folder: Path) -> bool:
        return _index_in(folder) is not None

    def read(self, path: Path) -> Contents:
        with reading(path, "a file of Keras", UnreadKindError, IncompleteError):
            return Walk(model_in(_index_in(path) or path)).contents()

    def write(self, gru: StoredGRU, path: Path) -> Report:
        config, arrays, report = sequential(gru)
        weights = hdf5_of(arrays, gru.dtype)
        if path.name.lower().endswith(".h5"):
            write_whole(path, weights)
            names = "+".join(dict.fromkeys("/".join(place.split("/")[:2]) for place in arrays))
            stack = f", or load it here with name={names!r}" if len(gru.params) > 1 else ""
            return report + Report((Note("ignored", "the description", UNTOLD + stack),))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("model.weights.h5", weights)
        write_whole(path, buffer.getvalue())
        return report

    def run(self, path: Path, gru: StoredGRU, x: Any, h0: Any, lengths: Any) -> tuple[Any, Any] | None:
        return run_saved(path, gru, x, h0, lengths)

    def adopts(self, thing: Any) -> bool:
        return (library_of(thing) in ("keras", "tf_keras") and hasattr(thing, "get_config")) or is_weights(thing)

    def adopt(self, thing: Any) -> Contents:
        return grus_of_weights(thing) if isinstance(thing, list | tuple) else Live().contents(thing)


keras = KerasFormat()


def _index_in(folder: Path) -> Path | None:
    """The one index in a folder of weights in several files."""
    found = list(islice(folder.glob(f"*{INDEX}"), 2)) if folder.is_dir() else []
    return found[0] if len(found) == 1 else None
