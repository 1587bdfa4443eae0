"""Models as safetensors files (https://huggingface.co/docs/safetensors), with PyTorch's names and a header.

The header's `__metadata__` holds `format`, `version` and `model`, the latter as JSON. The values are stored as they
are, bit for bit. The file is written beside its place and then renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.checks import sizes_of
from gru_xp.errors import BackendError, FileFormatError, GRUError
from gru_xp.formats.files import write_whole
from gru_xp.formats.registry import Format
from gru_xp.formats.stored import Contents, Note, Report, StoredGRU
from gru_xp.params import CellParams, GRUSpec

__all__ = ["SafetensorsFormat", "safetensors"]

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


class SafetensorsFormat(Format):
    """gru_xp's own files, which hold all that a model is."""

    name = "safetensors"
    title = "gru_xp's own (.safetensors)"
    suffixes = (".safetensors",)

    def recognises(self, path: Path, head: bytes) -> bool:
        return super().recognises(path, head) or head[8:9] == b"{"

    def write(self, gru: StoredGRU, path: Path) -> Report:
        library = _library()
        arrays = {
            _key(field, layer, d): _encoded(array, gru.dtype)
            for layer, directions in enumerate(gru.params)
            for d, w in enumerate(directions)
            for field, array in zip(CellParams._fields, w, strict=True)
            if array is not None
        }
        tensors = {
            key: library.TensorSpec(dtype=gru.dtype, shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
            for key, a in arrays.items()
        }
        metadata = {"format": FORMAT, "version": VERSION, "model": json.dumps(_options_of(gru))}
        write_whole(path, library.serialize(tensors, metadata))
        return Report((Note("exact", "all of it"),))

    def read(self, path: Path) -> Contents:
        library = _library()
        data = path.read_bytes()
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
                f"{path}: expected the arrays of {L} layers in {D} directions, "
                f"missing: {_some(keys - set(tensors))}, not expected: {_some(set(tensors) - keys)}"
            )

        def array(field: str, layer: int, d: int) -> Any:
            return _decoded(tensors[_key(field, layer, d)], path) if field in fields else None

        dtype = _dtype(tensors[_key(fields[0], 0, 0)], path)
        for key, tensor in tensors.items():
            if _dtype(tensor, path) != dtype:
                raise FileFormatError(
                    f"{path}: the arrays do not make a model: {key}: expected {dtype}, as the others have, "
                    f"got {_dtype(tensor, path)}"
                )
        params = tuple(
            tuple(CellParams(*(array(field, layer, d) for field in CellParams._fields)) for d in range(D))
            for layer in range(L)
        )
        try:
            sizes = sizes_of(params)
        except GRUError as error:
            raise FileFormatError(f"{path}: the arrays do not make a model: {error}") from None
        for name, got in (("input_size", sizes.I), ("hidden_size", sizes.H)):
            if got != options[name]:
                raise FileFormatError(f"{path}: the header says {name} = {options[name]}, the arrays say {got}")
        if not 0.0 <= options["dropout"] <= 1.0:
            raise FileFormatError(f"{path}: dropout: expected a probability from 0 to 1, got {options['dropout']}")
        spec = GRUSpec(options["reset_after"])
        report = Report((Note("exact", "all of it"),))
        stored = StoredGRU(params, spec, "", dtype, options["batch_first"], options["dropout"], report=report)
        return Contents((stored,))


safetensors = SafetensorsFormat()


def _options_of(gru: StoredGRU) -> dict[str, Any]:
    """What the header says of a model."""
    sizes = sizes_of(gru.params)
    return {
        "input_size": sizes.I,
        "hidden_size": sizes.H,
        "num_layers": sizes.L,
        "bias": sizes.bias,
        "batch_first": gru.batch_first,
        "dropout": gru.dropout,
        "bidirectional": sizes.D == 2,
        "reset_after": gru.spec.reset_after,
    }


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


def _dtype(tensor: dict[str, Any], path: Any) -> str:
    if tensor["dtype"] not in TYPES:
        raise FileFormatError(f"{path}: expected one of {', '.join(TYPES)}, got {tensor['dtype']}")
    return TYPES[tensor["dtype"]]


def _encoded(array: Any, dtype: str) -> np.ndarray:
    """The values in little endian; bfloat16, which is held as float32, as its upper halves."""
    if dtype == "bfloat16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _decoded(tensor: dict[str, Any], path: Any) -> np.ndarray:
    """The inverse of `_encoded`."""
    dtype, data = _dtype(tensor, path), tensor["data"]
    if dtype == "bfloat16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(tensor["shape"]).astype("f4")
    values = np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(tensor["shape"])
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _key(field: str, layer: int, d: int) -> str:
    """PyTorch's name of a weight: `weight_ih_l0_reverse`."""
    return f"{FIELDS[field]}_l{layer}{'_reverse' if d else ''}"


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:4]) + (", ..." if len(names) > 4 else "") if names else "none"


def _library() -> Any:
    try:
        import safetensors
    except ImportError:
        raise BackendError(
            "the library safetensors is missing, which files need; install it: python -m pip install 'gru-xp[files]'"
        ) from None
    return safetensors
