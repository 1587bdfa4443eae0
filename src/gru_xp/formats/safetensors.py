"""Models as safetensors files (https://huggingface.co/docs/safetensors), with PyTorch's names and a header.

The header's `__metadata__` holds `format`, `version` and `model`, the latter as JSON. The values are stored as they
are, bit for bit. The file is written beside its place and then renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import json
import os
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.backend import Backend
from gru_xp.dispatch import Place, convert, place_for, selection
from gru_xp.dispatch import load as load_backend
from gru_xp.errors import BackendError, FileFormatError, GRUError
from gru_xp.formats.files import write_whole
from gru_xp.module import GRU
from gru_xp.params import CellParams, GRUSpec

__all__ = ["load", "save"]

FORMAT, VERSION = "gru_xp", "1"
TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
FIELDS = {"W_ih": "weight_ih", "W_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
OPTIONS: dict[str, type] = {
    "input_size": int,
    "hidden_size": int,
    "num_layers": int,
    "bias": bool,
    "batch_first": bool,
    "dropout": float,
    "bidirectional": bool,
    "reset_after": bool,
}


def save(model: GRU, path: str | PathLike[str]) -> None:
    """Write a model."""
    library = _safetensors()
    arrays = {
        _key(field, layer, d): _to_numpy(array, model._own.place.backend)
        for layer, directions in enumerate(model._own.params)
        for d, w in enumerate(directions)
        for field, array in zip(CellParams._fields, w, strict=True)
        if array is not None
    }
    tensors = {
        key: library.TensorSpec(dtype=model.dtype, shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
        for key, a in arrays.items()
    }
    options = {name: getattr(model.spec if name == "reset_after" else model, name) for name in OPTIONS}
    metadata = {"format": FORMAT, "version": VERSION, "model": json.dumps(options)}
    write_whole(path, library.serialize(tensors, metadata))


def load(path: str | PathLike[str], *, backend: str | None = None) -> GRU:
    """Read a model; a file that is damaged, foreign or hostile is a `FileFormatError`."""
    library = _safetensors()
    place = place_for(selection(backend), None)
    data = Path(os.fsdecode(path)).read_bytes()
    try:
        tensors = dict(library.deserialize(data))
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except Exception as error:
        raise FileFormatError(
            f"{path}: expected a safetensors file, but it is damaged or something else: {error}"
        ) from None
    options = _options(header.get("__metadata__"), path)
    L, D = options["num_layers"], 2 if options["bidirectional"] else 1
    fields = CellParams._fields if options["bias"] else CellParams._fields[:2]
    keys = {_key(field, layer, d) for field in fields for layer in range(min(L, len(tensors))) for d in range(D)}
    if keys != set(tensors) or L * D * len(fields) != len(tensors):
        raise FileFormatError(
            f"{path}: expected the arrays of {L} layers in {D} directions, missing: {_some(keys - set(tensors))}, "
            f"not expected: {_some(set(tensors) - keys)}"
        )

    def array(field: str, layer: int, d: int) -> Any:
        return _array(tensors[_key(field, layer, d)], place, path) if field in fields else None

    params = tuple(
        tuple(CellParams(*(array(field, layer, d) for field in CellParams._fields)) for d in range(D))
        for layer in range(L)
    )
    try:
        model = GRU.from_params(
            params,
            spec=GRUSpec(options["reset_after"]),
            batch_first=options["batch_first"],
            dropout=options["dropout"],
        )
    except GRUError as error:
        raise FileFormatError(f"{path}: the arrays do not make a model: {error}") from None
    for name in ("input_size", "hidden_size"):
        if getattr(model, name) != options[name]:
            raise FileFormatError(
                f"{path}: the header says {name} = {options[name]}, the arrays say {getattr(model, name)}"
            )
    return model


def _options(metadata: Any, path: Any) -> dict[str, Any]:
    """The checked options of the header."""
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise FileFormatError(
            f"{path}: a safetensors file, but not written by gru_xp: its header lacks format = {FORMAT!r}"
        )
    if metadata.get("version") != VERSION:
        raise FileFormatError(
            f"{path}: expected version {VERSION}, got {metadata.get('version')!r}; a newer gru_xp may read it"
        )
    try:
        options = json.loads(metadata["model"])
    except (KeyError, TypeError, ValueError, RecursionError):
        options = None
    fits = (
        isinstance(options, dict)
        and {name: type(value) for name, value in options.items()} == OPTIONS
        and options["num_layers"] >= 1
    )
    if not fits:
        raise FileFormatError(
            f"{path}: expected {', '.join(OPTIONS)} in the header's `model`, got {str(metadata.get('model'))[:200]!r}"
        )
    return dict(options)


def _array(tensor: dict[str, Any], place: Place, path: Any) -> Any:
    dtype = TYPES.get(tensor["dtype"])
    if dtype is None:
        raise FileFormatError(f"{path}: expected one of {', '.join(TYPES)}, got {tensor['dtype']}")
    if dtype not in place.backend.float_names():
        raise BackendError(
            f"{path}: holds {dtype}, which {place.backend.name} does not have; load it with another backend, "
            f"such as backend='torch'"
        )
    return _from_numpy(tensor["data"], dtype, tensor["shape"], place)


def _to_numpy(array: Any, backend: Backend) -> np.ndarray:
    """The values in host memory, little endian; bfloat16, which NumPy lacks, as the upper halves of float32."""
    numpy = load_backend("numpy")
    if backend.dtype_name(array.dtype) == "bfloat16":
        wide = convert(backend.xp.astype(array, backend.xp.float32), backend, Place(numpy, "cpu"), "params")
        return (wide.view("<u4") >> 16).astype("<u2")
    values = convert(array, backend, Place(numpy, "cpu"), "params")
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))


def _from_numpy(data: Any, dtype: str, shape: Any, place: Place) -> Any:
    """The inverse of `_to_numpy`, in the library and on the device of `place`."""
    numpy, backend = load_backend("numpy"), place.backend
    if dtype == "bfloat16":
        wide = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(shape)
        return backend.xp.astype(convert(numpy.canonical(wide), numpy, place, "file"), backend.dtype(dtype))
    values = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    return convert(numpy.canonical(values), numpy, place, "file")


def _key(field: str, layer: int, d: int) -> str:
    """PyTorch's name of a weight: `weight_ih_l0_reverse`."""
    return f"{FIELDS[field]}_l{layer}{'_reverse' if d else ''}"


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:4]) + (", ..." if len(names) > 4 else "") if names else "none"


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError:
        raise BackendError(
            "the library safetensors is missing, which files need; install it: python -m pip install 'gru-xp[files]'"
        ) from None
    return safetensors
