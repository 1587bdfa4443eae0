"""The format: Keras's files and live objects, in and out."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from gru_xp.atomic import write_whole
from gru_xp.errors import FileFormatError
from gru_xp.files import Format
from gru_xp.formats.hdf5 import SIGNATURE, datasets
from gru_xp.formats.trees import library_of
from gru_xp.stored import Contents, Note, Report, StoredGRU

from .export import hdf5_of, sequential
from .files import Walk, from_zip
from .live import Live
from .runtime import run_saved

__all__ = ["KerasFormat", "keras"]


UNTOLD = "such a file holds arrays alone; load it into a model of the same layers, or write .keras"


class KerasFormat(Format):
    """Every GRU layer: `GRU`, `RNN` around `GRUCell`s, `Bidirectional`; stacks where a model says that they are."""

    name = "keras"
    title = "Keras 3 (.keras, .weights.h5, a live layer or model; of an older .h5 the arrays)"
    suffixes = (".keras", ".weights.h5")
    runtime = "keras"

    def recognises(self, path: Path, head: bytes) -> bool:
        return super().recognises(path, head) or head.startswith(SIGNATURE)

    def read(self, path: Path) -> Contents:
        data = path.read_bytes()
        try:
            config, tensors = from_zip(data) if data[:2] == b"PK" else (None, datasets(data))
            return Walk(tensors).contents(config)
        except MemoryError:
            raise
        except Exception as error:  # what a damaged file leads to is of any kind
            raise FileFormatError(
                f"{path}: expected a file of Keras 3, but it is damaged or something else: "
                f"{type(error).__name__}: {str(error)[:300]}"
            ) from None

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
        return library_of(thing) == "keras" and hasattr(thing, "get_config")

    def adopt(self, thing: Any) -> Contents:
        return Live().contents(thing)


keras = KerasFormat()
