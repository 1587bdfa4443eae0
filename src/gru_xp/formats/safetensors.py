"""safetensors files (https://huggingface.co/docs/safetensors): our own, and the GRUs in those that others wrote.

Our own have PyTorch's names, and in the header's `__metadata__` stand `format`, `version` and `model`, the latter as
JSON. Version 2 has the whole `GRUSpec` beside it, as `spec`. It is written only where version 1, which knows of
`reset_after` alone, cannot say what is meant: so an older reader reads what it can and refuses the rest. Version 3 has
weights in 8 or 16 bits, in the arrays of `narrow_arrays`, with `narrow` to say how they are stored and what the
products round, and as `spec` only the fields that differ from `GRUSpec(reset_after)`, to keep its header small. The
values are stored as they are, bit for bit. The file is written beside its place and then renamed, so it is there whole
or not at all. In files of others GRUs are found by the names of their arrays.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.atomic import write_whole
from gru_xp.checks import assert_directions, sizes_of
from gru_xp.errors import BackendError, ConversionError, FileFormatError, GRUError
from gru_xp.files import Format
from gru_xp.formats.named import pytorch_names
from gru_xp.formats.names import NAMES, read_as
from gru_xp.formats.narrow_arrays import arrays_of, params_of
from gru_xp.formats.shards import grus_of_file
from gru_xp.narrow import ACTIVATIONS, WEIGHTS, Narrow
from gru_xp.params import CellParams, GRUSpec, Params, Sizes
from gru_xp.stored import FLOATS, Arrays, Contents, Note, Report, StoredGRU, Tensor

__all__ = ["SafetensorsFormat", "safetensors", "serialized"]

FORMAT, VERSIONS = "gru_xp", ("1", "2", "3")
TYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64", "BOOL": "bool"}
TYPES |= {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
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


SPEC = tuple(each.name for each in fields(GRUSpec) if each.init and each.name not in OPTIONS)
SOURCES = {"gru_xp's own files": read_as("all that a model here has", *OPTIONS, *SPEC, "dtype"), **NAMES}


class SafetensorsFormat(Format):
    """gru_xp's own files, which hold all that a model is, and those of others, which hold arrays with names."""

    name = "safetensors"
    title = "gru_xp's own, and PyTorch's, Flax's, Equinox's or MLX's names (.safetensors)"
    suffixes = (".safetensors",)
    options = SOURCES
    holds_narrow = True

    def recognises(self, path: Path, head: bytes) -> bool:
        return super().recognises(path, head) or head[8:9] == b"{"

    def write(self, gru: StoredGRU, path: Path) -> Report:
        metadata = {"format": FORMAT, "version": "1", "model": json.dumps(_options_of(gru))}
        if gru.spec != GRUSpec(gru.spec.reset_after):
            metadata |= {"version": "2", "spec": json.dumps(gru.spec.as_dict())}
        if gru.narrow is None:
            data = serialized(pytorch_names(gru.params), gru.dtype, metadata)
        else:
            held = {"weights": gru.narrow.weights, "activations": gru.narrow.activations, "kept": gru.narrow.kept}
            usual = GRUSpec(gru.spec.reset_after).as_dict()
            special = {name: value for name, value in gru.spec.as_dict().items() if value != usual[name]}
            metadata = {"format": FORMAT, "version": "3", "model": _short(_options_of(gru)), "narrow": _short(held)}
            metadata |= {"spec": _short(special)} if special else {}
            data = serialized(*arrays_of(gru, sizes_of(gru.params)), metadata)
        write_whole(path, data)
        return Report((Note("exact", "all of it"),))

    def read(self, path: Path) -> Contents:
        tensors, metadata = _header_of(path)
        if metadata.get("format") != FORMAT:
            return grus_of_file(path, tensors)
        options = _options(metadata, path)
        spec = _spec(metadata, options["reset_after"], path)
        if metadata["version"] == "3":
            params, dtype, narrow = _narrow_params(tensors, options, metadata, path)
        else:
            params, dtype, narrow = *_params(tensors, options, path), None
        try:
            sizes = sizes_of(params)
            assert_directions(spec, sizes)
        except GRUError as error:
            raise FileFormatError(f"{path}: the arrays do not make a model: {error}") from None
        for name, got in (("input_size", sizes.I), ("hidden_size", sizes.H)):
            if got != options[name]:
                raise FileFormatError(f"{path}: the header says {name} = {options[name]}, the arrays say {got}")
        if not 0.0 <= options["dropout"] <= 1.0:
            raise FileFormatError(f"{path}: dropout: expected a probability from 0 to 1, got {options['dropout']}")
        report = Report((Note("exact", "all of it"),))
        stored = StoredGRU(
            params, spec, "", dtype, options["batch_first"], options["dropout"], report=report, narrow=narrow
        )
        return Contents((stored,), arrays=Arrays(tensors))


safetensors = SafetensorsFormat()


def _params(tensors: dict[str, Tensor], options: dict[str, Any], path: Path) -> tuple[Params, str]:
    """The parameters under PyTorch's names, and their dtype."""
    L, D = options["num_layers"], 2 if options["bidirectional"] else 1
    own = CellParams._fields if options["bias"] else CellParams._fields[:2]
    keys = {_key(field, layer, d) for field in own for layer in range(min(L, len(tensors))) for d in range(D)}
    if keys != set(tensors) or L * D * len(own) != len(tensors):
        raise FileFormatError(
            f"{path}: expected the arrays of {L} layers in {D} directions, "
            f"missing: {_some(keys - set(tensors))}, not expected: {_some(set(tensors) - keys)}"
        )

    def array(field: str, layer: int, d: int) -> Any:
        return tensors[_key(field, layer, d)].read() if field in own else None

    dtype = tensors[_key(own[0], 0, 0)].dtype
    for key, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise FileFormatError(f"{path}: {key}: expected one of {', '.join(FLOATS)}, got {tensor.dtype}")
        if tensor.dtype != dtype:
            raise FileFormatError(
                f"{path}: the arrays do not make a model: {key}: expected {dtype}, as the others have, "
                f"got {tensor.dtype}"
            )
    return tuple(
        tuple(CellParams(*(array(field, layer, d) for field in CellParams._fields)) for d in range(D))
        for layer in range(L)
    ), dtype


def _narrow_params(
    tensors: dict[str, Tensor], options: dict[str, Any], metadata: dict[str, Any], path: Path
) -> tuple[Params, str, Narrow]:
    """The parameters in float32, and how their weights are stored."""
    L = options["num_layers"]
    try:
        held = json.loads(metadata["narrow"])
        weights, activations, kept = held["weights"], held["activations"], held["kept"]
        fits = weights in WEIGHTS and activations in ACTIVATIONS and (weights == "int8" or activations == "float32")
        fits = fits and all(type(layer) is int and 0 <= layer < L for layer in kept) and len(set(kept)) == len(kept) < L
    except (KeyError, TypeError, ValueError, RecursionError):
        fits = False
    if not fits or min(options["input_size"], options["hidden_size"] - 1) < 0:
        raise FileFormatError(
            f"{path}: expected the header's `narrow` to name weights among {', '.join(WEIGHTS)}, activations that fit "
            f"and the layers that are kept, got {str(metadata.get('narrow'))[:99]!r}"
        )
    D = 2 if options["bidirectional"] else 1
    sizes = Sizes(options["input_size"], options["hidden_size"], L, D, options["bias"])
    narrow = Narrow(weights, activations, kept=tuple(kept))
    params, scales = params_of(tensors, sizes, narrow, str(path))
    return params, "float32", replace(narrow, scales=scales)


def serialized(arrays: dict[str, np.ndarray], dtype: str | dict[str, str], metadata: dict[str, str]) -> bytes:
    """The bytes of a file with these arrays, all of one dtype or each of its own; bfloat16 comes as float32."""
    library = _library()
    dtypes = dict.fromkeys(arrays, dtype) if isinstance(dtype, str) else dtype
    encoded = {name: _encoded(array, dtypes[name]) for name, array in arrays.items()}
    tensors = {
        name: library.TensorSpec(dtype=dtypes[name], shape=a.shape, data_ptr=a.ctypes.data, data_len=a.nbytes)
        for name, a in encoded.items()
    }
    return bytes(library.serialize(tensors, metadata))


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


def _options(metadata: dict[str, Any], path: Any) -> dict[str, Any]:
    """The checked options of the header of a file of our own."""
    if metadata.get("version") not in VERSIONS:
        raise FileFormatError(
            f"{path}: expected version {' or '.join(VERSIONS)}, got {metadata.get('version')!r}; a newer gru_xp may "
            f"read it"
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


def _spec(metadata: dict[str, Any], reset_after: bool, path: Any) -> GRUSpec:
    """The equations; `metadata` has passed `_options`."""
    if metadata["version"] == "1" or (metadata["version"] == "3" and "spec" not in metadata):
        return GRUSpec(reset_after)
    try:
        values = json.loads(metadata["spec"])
        if metadata["version"] == "3" and isinstance(values, dict):
            values = GRUSpec(reset_after).as_dict() | values
        spec = GRUSpec.from_dict(values)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: expected a GRUSpec in the header's `spec`: {str(error)[:300]}") from None
    if spec.reset_after != reset_after:
        raise FileFormatError(f"{path}: the header's `model` and `spec` do not agree about reset_after")
    return spec


def _short(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _header_of(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The arrays, of which nothing has been read yet, and the metadata. The library compares both with the file."""
    library = _library()
    try:
        with library.safe_open(path, framework="numpy") as checked:
            names = checked.keys()
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise FileFormatError(
            f"{path}: expected a safetensors file, but it is damaged or something else: {error}"
        ) from None
    return {name: _tensor(path, name, 8 + size, header[name]) for name in names}, header.get("__metadata__") or {}


def _tensor(path: Path, name: str, start: int, entry: dict[str, Any]) -> Tensor:
    """One array by its entry in the header. safe_open would read all but bfloat16, which it leaves to ml_dtypes."""
    shape, dtype = tuple(entry["shape"]), TYPES.get(entry["dtype"], entry["dtype"])
    first, last = entry["data_offsets"]

    def read() -> np.ndarray:
        if entry["dtype"] not in TYPES:
            raise ConversionError(f"{path}: {name}: {dtype}, which NumPy does not have")
        with path.open("rb") as file:
            file.seek(start + first)
            data = file.read(last - first)
        stored = np.dtype("<u2" if dtype == "bfloat16" else dtype).newbyteorder("<")
        if len(data) != prod(shape) * stored.itemsize:
            raise FileFormatError(f"{path}: {name}: expected {shape} of {dtype}, got {len(data)} bytes")
        values = np.frombuffer(data, stored).reshape(shape)
        if dtype == "bfloat16":
            return (values.astype("u4") << 16).view("f4")
        return values.astype(stored.newbyteorder("="))

    return Tensor(shape, dtype, read)


def _encoded(array: Any, dtype: str) -> np.ndarray:
    """The values in little endian; bfloat16, which is held as float32, as its upper halves."""
    if dtype == "bfloat16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


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
