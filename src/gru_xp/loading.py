"""Models out of files and frameworks' objects."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from os import PathLike
from typing import Any

from . import files
from .checks import sizes_of
from .convert import convert
from .discovery import Place
from .discovery import load as load_backend
from .errors import BackendError, ConversionWarning
from .module import GRU
from .params import Params, map_params
from .prepared import PreparedParams
from .selection import place_for, selection
from .stored import BATCH_FIRST, StoredGRU, dtype_name

__all__ = ["as_model", "from_framework", "load", "prepared_narrow"]


def load(
    path: str | PathLike[str],
    *,
    backend: str | None = None,
    name: str | None = None,
    format: str | None = None,  # noqa: A002
    batch_first: bool | None = None,
    dtype: Any = None,
) -> GRU:
    """Read a model from a file of any format, into the selected backend, by default NumPy. Nothing runs its code.

    Args:
        path: a file that `GRU.save` wrote, or PyTorch's, Keras's, ONNX's, ... (`gru-xp inspect` lists what is in it).
        backend: where the parameters shall live, as `name[:device]`.
        name: which GRU, where there are several.
        format: the format, where the file's ending does not say it.
        batch_first: True for x (N, T, I), False for (T, N, I), where the file does not say it, as a state_dict does
            not; by default False, which `report.assumed` says. It is an error where the file says otherwise.
        dtype: "float32", "float64", "float16" or "bfloat16"; by default the file's.

    `GRU.report` says what became of the numbers and what was assumed. What makes outputs differ, or may do so, is a
    `ConversionWarning` too, except for `batch_first`.

    >>> import gru_xp, tempfile
    >>> path = tempfile.mkdtemp() + "/model.npz"
    >>> _ = gru_xp.GRU(3, 4).save(path)
    >>> gru_xp.load(path).report.assumed
    ('batch_first=False',)
    >>> gru_xp.load(path, batch_first=True, dtype="float64")
    GRU(3, 4, batch_first=True, dtype='float64', backend='numpy:cpu')
    """
    place = place_for(selection(backend), None)
    stored = files.read(
        path, name=name, format=format, batch_first=batch_first, dtype=None if dtype is None else dtype_name(dtype)
    )
    _warn(stored, os.fsdecode(path), assumed=True)
    return as_model(stored, place)


def from_framework(
    thing: Any,
    *,
    backend: str | None = None,
    name: str | None = None,
    batch_first: bool | None = None,
    dtype: Any = None,
) -> GRU:
    """A model from a framework's own object: a PyTorch module, a Keras layer, a tree of Flax or Equinox parameters.

    The arguments are those of `load`. What `report.assumed` says of an object is no warning.

    >>> import gru_xp
    >>> weights = dict(zip(("weight_ih_l0", "weight_hh_l0"), gru_xp.GRU(3, 4, bias=False).params[0][0]))
    >>> gru_xp.from_framework(weights, batch_first=True)
    GRU(3, 4, bias=False, batch_first=True, dtype='float32', backend='numpy:cpu')
    """
    place = place_for(selection(backend), None)
    stored = files.adopt(thing, name=name, batch_first=batch_first, dtype=None if dtype is None else dtype_name(dtype))
    _warn(stored, type(thing).__name__, assumed=False)
    return as_model(stored, place)


def as_model(stored: StoredGRU, place: Place) -> GRU:
    """A `GRU` with these numbers at a place, in the type that they were stored in."""
    model = GRU.from_params(
        _brought(stored.params, stored, place) if stored.narrow is None else prepared_narrow(stored, place),
        spec=stored.spec,
        batch_first=stored.batch_first is True,
        dropout=stored.dropout,
    )
    model._report = stored.report
    return model


def prepared_narrow(stored: StoredGRU, place: Place) -> PreparedParams:
    """The parameters at a place, with how their weights are stored."""
    narrow, params = stored.narrow, _brought(stored.params, stored, place)
    if narrow is not None and narrow.scales is not None:
        narrow = replace(narrow, scales=_brought(narrow.scales, stored, place))
    return PreparedParams(params, sizes_of(params), place, narrow=narrow)


def _brought(params: Params, stored: StoredGRU, place: Place) -> Params:
    """Arrays in host memory at a place."""
    backend, numpy = place.backend, load_backend("numpy")
    if stored.dtype not in backend.float_names():
        raise BackendError(
            f"{stored.name or 'this GRU'}: holds {stored.dtype}, which {backend.name} does not have; give "
            f"dtype='float32' (--dtype float32), or load it with another backend, such as backend='torch'"
        )

    def brought(array: Any) -> Any:
        array = convert(numpy.canonical(array), numpy, place, "params")
        return backend.owned(backend.xp.astype(array, backend.dtype(stored.dtype)))

    return map_params(brought, params)


def _warn(stored: StoredGRU, origin: str, *, assumed: bool) -> None:
    """Warn where outputs are not the original's, or may not be. Whoever gives x decides about `batch_first`."""

    def told(fate: str) -> str:
        notes = [note for note in stored.report.notes if note.fate == fate and note != BATCH_FIRST]
        return "; ".join(f"{note.what}: {note.why}" for note in notes)

    differs = f"differs from the original, {told('changed')}" if told("changed") else ""
    unsaid = f"assumed: {told('assumed')}" if assumed and told("assumed") else ""
    if differs or unsaid:
        where = f"{origin}, {stored.name}" if stored.name else origin
        message = f"{where}: {'; '.join(filter(None, (differs, unsaid)))}"
        warnings.warn(message, ConversionWarning, stacklevel=3)  # whoever calls load or from_framework
