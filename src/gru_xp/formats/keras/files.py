"""Keras's files: what describes the model, which Keras wrote it, and where its arrays are.

A .keras file is a zip of a description in JSON and of an HDF5 file. A .weights.h5 file is the latter alone, which does
not say a GRU's activations. The older .h5 has the description as an attribute, or none where weights alone were saved.
Keras 3 also writes weights in several files, which a .weights.json lists.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from gru_xp.errors import FileFormatError
from gru_xp.formats.hdf5 import Stored, read
from gru_xp.formats.regions import Region

from .dialects import KERAS_3, TENSORFLOW_2, Dialect, dialect_of
from .javascript import GRAPH_MODEL, layers_model
from .sources import Names, Paths, Source

__all__ = ["IncompleteError", "Model", "model_in"]

MOST_JSON = 1 << 24  # bytes
MOST_METADATA = 1 << 16
MOST_FILES = 10_000
WEIGHTS = "model.weights"
SHARD = re.compile(r".*_\d{5}\.weights\.h5", re.DOTALL)  # as Keras 3 numbers them


class IncompleteError(FileFormatError):
    """The file is whole, and says that what is wanted is in others or not there."""


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
        return from_json(path)
    if index := _index_of(path):
        raise IncompleteError(f"one of the files of {index}; load that")
    if head != b"PK":
        return from_hdf5(Region(path))
    with zipfile.ZipFile(path) as archive:
        return from_zip(path, archive)


def from_zip(path: Path, archive: zipfile.ZipFile) -> Model:
    """A .keras file. Sizes are looked at before anything is unpacked, and nothing is written to the disk."""
    entries = {info.filename: info for info in archive.infolist()}
    size = path.stat().st_size
    left = 8 * size  # bytes of HDF5

    def entry(name: str, most: int) -> Region:
        info = entries.get(name)
        if info is None:
            raise FileFormatError(f"a zip without {name}")
        if info.file_size > most:
            raise FileFormatError(f"{name}: expected at most {most} bytes, it says {info.file_size}")
        return Region.of_entry(path, archive, info)

    def unpacked(name: str, most: int) -> bytes:
        region = entry(name, most)
        return region.piece(0, region.size)

    config = json.loads(unpacked("config.json", min(MOST_JSON, 50 * size)))
    version = json.loads(unpacked("metadata.json", MOST_METADATA)).get("keras_version")
    dialect = dialect_of(version)
    if dialect is None:
        raise FileFormatError(f"metadata.json: expected the version of Keras, got {str(version)[:40]!r}")

    def weights(name: str) -> Region:
        nonlocal left
        file = entry(name, left)
        left -= file.size
        return file

    sharded = f"{WEIGHTS}.json" in entries
    index = unpacked(f"{WEIGHTS}.json", MOST_JSON) if sharded else b""
    return Model(config, dialect, _merged(index, weights) if sharded else Paths(read(weights(f"{WEIGHTS}.h5"))))


def from_hdf5(data: Region) -> Model:
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


def from_json(path: Path) -> Model:
    """A model of TensorFlow.js, or Keras 3's index of weights in several files; both name files beside them."""

    def beside(name: str) -> Region:
        if name in ("", ".", "..") or {"/", "\\", ":", "\0"} & {*name}:
            raise FileFormatError(f"expected the weights in a file beside {path.name}, got {name[:60]!r}")
        file = path.with_name(name)
        if not file.is_file():
            raise IncompleteError(f"its weights are in {name[:60]!r}, which is not beside it")
        return Region(file)

    data = path.read_bytes()
    content = json.loads(data)
    if "weight_map" in content:
        return Model(None, KERAS_3, _merged(data, beside))
    if content.get("format") == "graph-model" or "modelTopology" not in content:
        raise IncompleteError(GRAPH_MODEL)
    return Model(*layers_model(content, beside))


def _merged(index: bytes, opened: Callable[[str], Region]) -> Paths:
    """The arrays of several files, by the index that names them."""
    listed = json.loads(index)["weight_map"].values()
    names = sorted({str(name) for each in listed for name in ([each] if isinstance(each, str) else each)})
    if len(names) > MOST_FILES:
        raise FileFormatError(f"expected weights in at most {MOST_FILES} files")
    parts = [read(opened(name)) for name in names]
    datasets = {path: tensor for part in parts for path, tensor in part.datasets.items()}
    return Paths(Stored(datasets, [group for part in parts for group in part.groups]))


def _index_of(path: Path) -> str:
    """The index that names a file as one of several, if there is one beside it."""
    if SHARD.fullmatch(path.name):
        for index in sorted(path.parent.glob("*.weights.json"))[:MOST_FILES]:
            if index.stat().st_size <= MOST_JSON and json.dumps(path.name).encode() in index.read_bytes():
                return index.name
    return ""
