"""Models out of files and frameworks' objects."""

from __future__ import annotations

import os
import warnings
from os import PathLike
from typing import Any

from . import files
from .dispatch import Place, convert, place_for, selection
from .dispatch import load as load_backend
from .errors import BackendError, ConversionWarning
from .module import GRU
from .params import map_params
from .stored import StoredGRU

__all__ = ["as_model", "from_framework", "load"]


def load(
    path: str | PathLike[str],
    *,
    backend: str | None = None,
    name: str | None = None,
    format: str | None = None,  # noqa: A002
) -> GRU:
    """Read a model from a file of any format, into the selected backend, by default NumPy. Nothing runs its code.

    Args:
        path: a file that `GRU.save` wrote, or PyTorch's, Keras's, ONNX's, ... (`gru-xp inspect` lists what is in it).
        backend: where the parameters shall live, as `name[:device]`.
        name: which GRU, where there are several.
        format: the format, where the file's ending does not say it.

    `GRU.report` says what became of the numbers; what makes outputs differ is a `ConversionWarning` too.
    """
    place = place_for(selection(backend), None)
    stored = files.read(path, name=name, format=format)
    _warn(stored, os.fsdecode(path))
    return as_model(stored, place)


def from_framework(thing: Any, *, backend: str | None = None, name: str | None = None) -> GRU:
    """A model from a framework's own object: a PyTorch module, a Keras layer, a tree of Flax or Equinox parameters."""
    place = place_for(selection(backend), None)
    stored = files.adopt(thing, name=name)
    _warn(stored, type(thing).__name__)
    return as_model(stored, place)


def as_model(stored: StoredGRU, place: Place) -> GRU:
    """A `GRU` with these numbers at a place, in the type that they were stored in."""
    backend, numpy = place.backend, load_backend("numpy")
    if stored.dtype not in backend.float_names():
        raise BackendError(
            f"{stored.name or 'this GRU'}: holds {stored.dtype}, which {backend.name} does not have; load it with "
            f"another backend, such as backend='torch'"
        )

    def brought(array: Any) -> Any:
        array = convert(numpy.canonical(array), numpy, place, "params")
        return backend.xp.astype(array, backend.dtype(stored.dtype))

    model = GRU.from_params(
        map_params(brought, stored.params), spec=stored.spec, batch_first=stored.batch_first, dropout=stored.dropout
    )
    model._report = stored.report
    return model


def _warn(stored: StoredGRU, origin: str) -> None:
    """Warn where outputs are not the original's. What is assumed, folded or acts in training alone is no surprise."""
    changed = "; ".join(f"{note.what}: {note.why}" for note in stored.report.notes if note.fate == "changed")
    if changed:
        where = f"{origin}, {stored.name}" if stored.name else origin
        message = f"{where}: differs from the original, {changed}"
        warnings.warn(message, ConversionWarning, stacklevel=3)  # whoever calls load or from_framework
