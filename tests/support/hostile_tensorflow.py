"""What attacks the readers of TensorFlow's files: the index of a checkpoint, and TensorFlow.js's JSON."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hostile import Subject
from tensorflow_files import GRAPH, VALUE, block, entry, graph, message, table, unpacked, varint, write_checkpoint

ARRAYS = {"kernel": (4, 9), "recurrent_kernel": (3, 9), "bias": (2, 9)}
KEYS = [f"layer_with_weights-0/cell/{name}{VALUE}" for name in ARRAYS]


def _arrays() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype("f4") for key, shape in zip(KEYS, ARRAYS.values(), strict=True)}


def _objects() -> bytes:
    cell = {name: 3 + index for index, name in enumerate(ARRAYS)}
    return graph([({"layer_with_weights-0": 1}, ""), ({"cell": 2}, ""), (cell, ""), *(({}, key) for key in KEYS)])


class Checkpoint(Subject):
    """The index; its numbers are beside it, for the broken ones too."""

    def good(self, path: Path) -> None:
        for name in ("broken", path.stem):
            write_checkpoint(path.with_name(name), _arrays(), _objects())

    def attacks(self, folder: Path, good: bytes) -> Iterator[tuple[str, Path]]:
        path = folder / "attack.index"
        (folder / "attack.data-00000-of-00001").write_bytes(bytes(1000))
        names = [f"gru/{name}".encode() for name in ARRAYS]
        shapes = list(ARRAYS.values())

        def rows(*entries: bytes) -> bytes:
            return table({b"": message((1, 1)), **dict(sorted(zip(names, entries, strict=True)))})

        one = block({b"gru/kernel": entry(1, (4, 9), 0, 144)})
        handle = varint(0) + varint(len(one) - 5)
        index = block({b"%09d" % n: handle for n in range(20_000)})
        footer = varint(0) + varint(0) + varint(len(one)) + varint(len(index) - 5)
        for what, data in {
            "shapes of 2**120 numbers": rows(*(entry(1, (2**60, 2**60), 0, 144) for _ in shapes)),
            "numbers beyond the end": rows(*(entry(1, shape, 2**60, 4 * shape[0] * shape[1]) for shape in shapes)),
            "sizes that are others": rows(*(entry(1, shape, 0, 4) for shape in shapes)),
            "a shard that is not there": rows(*(entry(1, shape, 0, 0, shard=7) for shape in shapes)),
            "types that are none": rows(*(entry(99, shape, 0, 4 * shape[0] * shape[1]) for shape in shapes)),
            "one block, 20,000 times": one + index + footer.ljust(40, b"\0") + good[-8:],
            "a graph of nothing": table({GRAPH.encode(): entry(7, (), 0, 1000)}),
        }.items():
            path.write_bytes(data)
            yield what, path

    def burdens(self, folder: Path) -> Iterator[tuple[str, Path]]:
        nodes: list[tuple[dict[str, int], str]] = [({f"layer-{n}": n for n in range(300)}, "")] * 300
        write_checkpoint(folder / "circles", _arrays(), graph(nodes))
        yield "300 objects that all lead to one another", folder / "circles.index"
        write_checkpoint(folder / "many", {f"{n}/kernel": np.zeros((), "f4") for n in range(20_000)})
        yield "20,000 arrays", folder / "many.index"


class JavaScript(Subject):
    """A model.json, with the converter's own file of numbers."""

    def good(self, path: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            source = unpacked(Path(name)) / "js"
            shutil.copy(source / "group1-shard1of1.bin", path.parent)
            content = json.loads((source / "model.json").read_bytes())
            path.write_text(json.dumps(content))

    def attacks(self, folder: Path, good: bytes) -> Iterator[tuple[str, Path]]:
        path = folder / "attack.json"

        def changed(**changes: Any) -> bytes:
            content = json.loads(good)
            content["weightsManifest"][0] |= changes
            return json.dumps(content).encode()

        for what, data in {
            "a path upwards": changed(paths=["../secret"]),
            "a whole path": changed(paths=[str(folder.parent / "secret")]),
            "the folder": changed(paths=["."]),
            "itself": changed(paths=[path.name]),
            "one file, 100,000 times": changed(paths=["group1-shard1of1.bin"] * 100_000),
            "no names": changed(paths=[{}]),
            "no weights": changed(weights=[]),
            "negative sizes": changed(weights=[{"name": "a/kernel", "shape": [-1, -456], "dtype": "uint8"}]),
            "deep JSON": b'{"modelTopology":' * 100_000,
        }.items():
            path.write_bytes(data)
            yield what, path


TENSORFLOW = (Checkpoint("checkpoint", ".index"), JavaScript("tensorflow.js", ".json"))
