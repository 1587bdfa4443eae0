"""Keras's files: what describes the model, which Keras wrote it, and where its arrays are.

A .keras file is a zip of a description in JSON and of an HDF5 file. A .weights.h5 file is the latter alone, which does
not say a GRU's activations. The older .h5 has the description as an attribute, or none where weights alone were saved.
TensorFlow.js has the description in model.json, and the numbers in files beside it.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.formats.hdf5 import Stored, read
from gru_xp.formats.named import Tensor

from .dialects import KERAS_3, TENSORFLOW_2, Dialect, dialect_of
from .sources import Names, Paths, Source

__all__ = ["Model", "model_in"]

MOST_JSON = 1 << 24  # bytes
MOST_METADATA = 1 << 16


class Model(NamedTuple):
    """What a file holds."""

    config: Any  # the description of the model, or None
    dialect: Dialect
    source: Source


def model_in(path: Path) -> Model:
    """What a file holds, of whichever kind it is. Anything may be raised for a damaged one."""
    with path.open("rb") as file:
        head = file.read(2)
    if head[:1] == b"{":
        return from_tensorflow_js(path)
    return from_zip(path.read_bytes()) if head == b"PK" else from_hdf5(path.read_bytes())


def from_zip(data: bytes) -> Model:
    """A .keras file. Sizes are looked at before anything is unpacked, and nothing touches the disk."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    entries = {info.filename: info for info in archive.infolist()}

    def unpacked(name: str, most: int) -> bytes:
        info = entries.get(name)
        if info is None:
            sharded = (
                "; its weights are in several files, load it with Keras and save it again without max_shard_size"
                if "model.weights.json" in entries
                else ""
            )
            raise FileFormatError(f"a zip without {name}{sharded}")
        if info.file_size > most:
            raise FileFormatError(f"{name}: expected at most {most} bytes, it says {info.file_size}")
        with archive.open(info) as file:
            return file.read(most)

    config = json.loads(unpacked("config.json", min(MOST_JSON, 50 * len(data))))
    version = json.loads(unpacked("metadata.json", MOST_METADATA)).get("keras_version")
    dialect = dialect_of(version)
    if dialect is None:
        raise FileFormatError(f"metadata.json: expected the version of Keras, got {str(version)[:40]!r}")
    return Model(config, dialect, Paths(read(unpacked("model.weights.h5", 8 * len(data)))))


def from_hdf5(data: bytes) -> Model:
    """An .h5 file, of whichever kind."""
    stored = read(data)
    texts = {name: text for path in ("", "model_weights") for name, text in stored.attributes.get(path, {}).items()}
    if not any("layer_names" in name for name in texts):
        paths = Paths(stored)
        return Model(None, TENSORFLOW_2 if paths.older else KERAS_3, paths)
    described = texts.get("model_config")
    config = json.loads(described[:MOST_JSON]) if isinstance(described, str) else None
    dialect = dialect_of(texts.get("keras_version", "1.0"))  # the first versions wrote none
    if dialect is None:
        raise FileFormatError(f"keras_version: expected one of Keras, got {str(texts['keras_version'])[:40]!r}")
    return Model(config, dialect, Names.of_hdf5(stored, "model_weights" if _has(stored, "model_weights") else ""))


def _has(stored: Stored, group: str) -> bool:
    return any("layer_names" in name for name in stored.attributes.get(group, {}))


# ---- TensorFlow.js ---------------------------------------------------------------------------------------------------

QUANTISED = {"uint8": "u1", "uint16": "<u2"}
KINDS = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "bool": "u1"}


def from_tensorflow_js(path: Path) -> Model:
    """A model.json of TensorFlow.js's layers, and the files beside it that it names."""
    content = json.loads(path.read_bytes())
    if content.get("format") == "graph-model" or "modelTopology" not in content:
        raise FileFormatError(
            "a graph-model of TensorFlow.js, whose GRU is no layer any more; convert the Keras model that it was made "
            "from, or make it again with --output_format=tfjs_layers_model"
        )
    topology = content["modelTopology"]
    config = topology.get("model_config", topology)
    tensors: dict[str, Tensor] = {}
    for group in content.get("weightsManifest") or ():
        data = b"".join(_beside(path, str(name)).read_bytes() for name in group["paths"])
        at = 0
        for entry in group["weights"]:
            size, tensor = _tensor_at(data, at, entry)
            tensors[str(entry["name"])] = tensor
            at += size
        if at != len(data):
            raise FileFormatError(f"expected {at} bytes of weights in {group['paths'][:4]}, got {len(data)}")
    dialect = dialect_of(topology.get("keras_version")) or Dialect(2, "TensorFlow.js", False, 3)
    return Model(config, dialect, Names.of_variables(tensors))


def _beside(path: Path, name: str) -> Path:
    if name in ("", ".", "..") or {"/", "\\", ":", "\0"} & {*name}:
        raise FileFormatError(f"expected the weights in a file beside {path.name}, got {name[:60]!r}")
    file = path.with_name(name)
    if not file.is_file():
        raise FileFormatError(f"its weights are in {name!r}, which is not beside it")
    return file


def _tensor_at(data: bytes, start: int, entry: Mapping[str, Any]) -> tuple[int, Tensor]:
    """The bytes that an array takes, and the array; quantised numbers as what they stand for, in float32."""
    shape = tuple(int(n) for n in entry["shape"])
    packed = entry.get("quantization")
    kind = str((packed or entry)["dtype"])
    dtype = np.dtype({**KINDS, **(QUANTISED if packed else {})}.get(kind, "V1"))
    count = int(np.prod(shape, dtype=object))
    size = count * dtype.itemsize
    if dtype.kind == "V":
        raise FileFormatError(f"{str(entry['name'])[:60]}: expected numbers, got {kind[:20]!r}")
    if count < 0 or start + size > len(data):
        raise FileFormatError(f"{str(entry['name'])[:60]}: its numbers are not all there")

    def values() -> np.ndarray:
        array = np.frombuffer(data, dtype, count, start).reshape(shape)
        if packed and dtype.kind == "u":
            array = array * float(packed["scale"]) + float(packed["min"])
        return np.array(array, "f4" if packed else dtype.newbyteorder("="))

    return size, Tensor(shape, "float32" if packed else dtype.name, values)
