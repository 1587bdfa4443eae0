"""TensorFlow.js's layers: a model.json with Keras's description, and the numbers in files beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.formats.regions import Region
from gru_xp.stored import Tensor

from .dialects import Dialect, dialect_of
from .sources import Names

__all__ = ["GRAPH_MODEL", "layers_model"]

GRAPH_MODEL = (
    "a graph-model of TensorFlow.js, in which a GRU is no layer any more; load the Keras model that it was made from, "
    "or convert that with --output_format=tfjs_layers_model"
)
QUANTISED = {"uint8": "u1", "uint16": "<u2"}
KINDS = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "bool": "u1"}


def layers_model(content: Any, opened: Callable[[str], Region]) -> tuple[Any, Dialect, Names]:
    """The description, the Keras that wrote it, and the arrays, of files that are opened by their names."""
    topology = content["modelTopology"]
    tensors: dict[str, Tensor] = {}
    seen: set[str] = set()
    for group in content.get("weightsManifest") or ():
        if seen & {*group["paths"]} or len({*group["paths"]}) < len(group["paths"]):
            raise FileFormatError("expected each file of weights once")
        seen |= {*group["paths"]}
        files = [opened(str(name)) for name in group["paths"]]
        data = b"".join(file.piece(0, file.size) for file in files)
        at = 0
        for entry in group["weights"]:
            size, tensor = _tensor_at(data, at, entry)
            tensors[str(entry["name"])] = tensor
            at += size
        if at != len(data):
            raise FileFormatError(f"expected {at} bytes of weights in {group['paths'][:4]}, got {len(data)}")
    dialect = dialect_of(topology.get("keras_version")) or Dialect(2, "TensorFlow.js", False, 3)
    return topology.get("model_config", topology), dialect, Names.of_variables(tensors)


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
