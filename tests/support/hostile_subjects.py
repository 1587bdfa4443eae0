"""The formats that `hostile.py` attacks: a good file of each, and files that somebody made to do harm."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hostile import Subject
from hostile_tensorflow import TENSORFLOW
from hostile_weights import WEIGHTS

import gru_xp


class Bomb:
    """Runs code where it is unpickled, which the audit hook of the child sees."""

    def __reduce__(self) -> Any:
        return exec, ("import os; os.system('true')",)


class Safetensors(Subject):
    """gru_xp's own files."""

    def good(self, path: Path) -> None:
        gru_xp.GRU(2, 3, 2, bidirectional=True, seed=0).save(path)

    def attacks(self, folder: Path, good: bytes) -> Iterator[tuple[str, Path]]:
        path = folder / "attack.safetensors"
        size = int.from_bytes(good[:8], "little")
        header = json.loads(good[8 : 8 + size])
        shaped = {
            name: entry if name == "__metadata__" else entry | {"shape": [2**31, 2**31]}
            for name, entry in header.items()
        }
        for what, data in {
            "a pickle": pickle.dumps(Bomb()),
            "a header of 2**63 bytes": (2**63).to_bytes(8, "little") + good[8:],
            "a header of all that follows": (len(good) - 8).to_bytes(8, "little") + good[8:],
            "shapes of 2**62 numbers": _with_header(shaped, good[8 + size :]),
            "offsets beyond the end": _with_header(_moved(header, 2**40), good[8 + size :]),
            "deep JSON": (100_000).to_bytes(8, "little") + b"[" * 100_000 + good,
        }.items():
            path.write_bytes(data)
            yield what, path


def _with_header(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _moved(header: dict[str, Any], by: int) -> dict[str, Any]:
    """Every array of a safetensors header `by` bytes further on."""
    return {
        name: entry if name == "__metadata__" else entry | {"data_offsets": [a + by for a in entry["data_offsets"]]}
        for name, entry in header.items()
    }


class Onnx(Subject):
    """A protobuf message, read by protobuf's own parser in C."""

    def good(self, path: Path) -> None:
        gru_xp.GRU(2, 3, 2, bidirectional=True, batch_first=True, seed=0).save(path)

    def attacks(self, folder: Path, good: bytes) -> Iterator[tuple[str, Path]]:
        path = folder / "attack.onnx"
        for what, change in ONNX_ATTACKS.items():
            model = onnx.load_from_string(good)
            try:
                change(model, folder)
                path.write_bytes(model.SerializeToString())
                yield what, path
            finally:
                for link in folder.glob("link*"):
                    link.unlink()
        path.write_bytes(good[:40] + b"\x3b" * 5000)
        yield "groups in groups in groups", path
        path.write_bytes(_nested_graphs(2000))
        yield "2,000 graphs in one another", path

    def burdens(self, folder: Path) -> Iterator[tuple[str, Path]]:
        path = folder / "burden.onnx"
        for what, (layers, nodes, inputs) in ONNX_BURDENS.items():
            arrays = [onnx.numpy_helper.from_array(np.ones((1, 3, 1), "f4"), name) for name in "WR"]
            arguments = [
                onnx.helper.make_tensor_value_info(*argument) for argument in (("x", 1, ["T", "N", 1]), *inputs)
            ]
            graph = onnx.helper.make_graph([*nodes, *layers], "g", arguments, [], arrays)
            opsets = [onnx.helper.make_opsetid("", 17)]
            path.write_bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
            yield what, path


def _layers(x: str, h0: str = "") -> list[Any]:
    """Many GRU nodes on the same input."""
    return [_node("GRU", [x, "W", "R", "", "", h0], f"y{index}", hidden_size=1) for index in range(900)]


def _of(model: Any, op: str) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == op]


def _weights(model: Any) -> list[Any]:
    """The tensors that are W."""
    wanted = {node.input[1] for node in _of(model, "GRU")}
    return [tensor for tensor in model.graph.initializer if tensor.name in wanted]


def _external(location: str, link: str = "", **entries: str) -> Any:
    """Every W is said to lie in another file, perhaps a link to the secret or out of the folder."""

    def change(model: Any, folder: Path) -> None:
        if link:
            (folder / "link").symlink_to(link)
        for tensor in _weights(model):
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in {"location": location, **entries}.items():
                tensor.external_data.add(key=key, value=value)

    return change


def _reshaped(*dims: int) -> Any:
    def change(model: Any, folder: Path) -> None:
        for tensor in _weights(model):
            tensor.ClearField("dims")
            tensor.dims.extend(dims)

    return change


def _computed(*nodes: Any) -> Any:
    """Every W is what these nodes make, the last of them `out`."""

    def change(model: Any, folder: Path) -> None:
        for node in _of(model, "GRU"):
            node.input[1] = "out"
        for index, node in enumerate(nodes):
            model.graph.node.insert(index, node)

    return change


def _endless(model: Any, folder: Path) -> None:
    """Y of a layer is its own X, by way of the layer above."""
    first, second = _of(model, "GRU")
    first.input[0] = next(node.output[0] for node in _of(model, "Reshape")[-1:])
    first.input[1] = second.input[1]
    model.graph.initializer.remove(_weights(model)[0])


def _million(model: Any, folder: Path) -> None:
    """Many nodes that share a weight."""
    model.graph.node.extend([_of(model, "GRU")[0]] * 5_000)


def _shared(model: Any, folder: Path) -> None:
    """A weight of 8 MB, in 900 nodes."""
    gru = onnx.NodeProto()
    gru.CopyFrom(_of(model, "GRU")[0])
    model.graph.ClearField("node")
    H, I = 3, 100_000
    W = onnx.numpy_helper.from_array(np.zeros((2, 3 * H, I), np.float32), "W")
    model.graph.initializer.append(W)
    gru.input[1] = "W"
    for index in range(900):
        copy = model.graph.node.add()
        copy.CopyFrom(gru)
        copy.output[0] = f"y{index}"


def _option(name: str, value: Any) -> Any:
    def change(model: Any, folder: Path) -> None:
        for node in _of(model, "GRU"):
            for attribute in [a for a in node.attribute if a.name == name]:
                node.attribute.remove(attribute)
            node.attribute.append(onnx.helper.make_attribute(name, value))

    return change


def _nested_graphs(depth: int) -> bytes:
    """A node with a graph with a node with a graph ..., written by hand because protobuf would refuse to."""
    data = b""
    for _ in range(depth):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            size, length = len(data), b""
            while size >= 128:
                length, size = length + bytes([size % 128 + 128]), size >> 7
            data = tag + length + bytes([size]) + data
    return onnx.ModelProto(ir_version=8, opset_import=[onnx.helper.make_opsetid("", 17)]).SerializeToString() + data


def _node(op: str, inputs: list[str], output: str = "out", **options: Any) -> Any:
    return onnx.helper.make_node(op, inputs, [output], **options)


def _tensor(*values: int) -> Any:
    return onnx.numpy_helper.from_array(np.asarray(values, np.int64))


def _constant(name: str, *values: int) -> Any:
    return _node("Constant", [], name, value=_tensor(*values))


def _doubled(times: int) -> list[Any]:
    names = ["d0", *(f"d{n}" for n in range(1, times)), "out"]
    return [_constant("d0", 1, 2, 3, 4), *(_node("Concat", [a, a], b, axis=0) for a, b in pairwise(names))]


_secret_tensor = onnx.TensorProto(data_type=1, dims=[1024], data_location=1)
_secret_tensor.external_data.add(key="location", value="../secret")

ONNX_ATTACKS: dict[str, Any] = {
    "external data above the folder": _external("../secret"),
    "external data at an absolute path": _external("/etc/passwd"),
    "external data at a path of Windows": _external("..\\secret"),
    "external data on a drive": _external("C:/secret"),
    "external data through a link to a file": _external("link", "../secret"),
    "external data through a link to a folder": _external("link/secret", ".."),
    "external data in a device": _external("link", "/dev/zero"),
    "external data in a folder": _external("."),
    "external data nowhere": _external(""),
    "external data with a zero byte": _external("a\0b"),
    "external data of no such file": _external("none.bin"),
    "external data in the model itself, beyond its end": _external("attack.onnx", offset=str(2**62)),
    "external data before the file": _external("attack.onnx", offset="-4096"),
    "external data at words": _external("attack.onnx", offset="first"),
    "external data of another length": _external("attack.onnx", length=str(2**62)),
    "shapes of 2**124 numbers": _reshaped(2**62, 2**62),
    "shapes below zero": _reshaped(-1, -1, -1),
    "shapes of zero": _reshaped(0, 0, 0),
    "a shape of many axes": _reshaped(*[1] * 100),
    "a constant of 2**60 numbers": _computed(_constant("n", 2**30, 2**30), _node("ConstantOfShape", ["n"])),
    "a constant whose value is the secret": _computed(
        _constant("n", 4), _node("ConstantOfShape", ["n"], value=_secret_tensor)
    ),
    "expanded to 2**60 numbers": _computed(
        _constant("n", 2**30, 2**30), _constant("one", 1), _node("Expand", ["one", "n"])
    ),
    "doubled 60 times": _computed(*_doubled(60)),
    "a product of 2**34 numbers": _computed(
        _constant("n", 2**17, 1),
        _node("ConstantOfShape", ["n"], "column"),
        _constant("m", 1, 2**17),
        _node("ConstantOfShape", ["m"], "row"),
        _node("Mul", ["column", "row"]),
    ),
    "gathered 2**34 times": _computed(
        _constant("n", 2**17),
        _node("ConstantOfShape", ["n"], "zeros", value=_tensor(0)),
        _node("Gather", ["zeros", "zeros"], "out"),
    ),
    "split into 2**40 parts": _computed(_constant("one", 1), _node("Split", ["one"], num_outputs=2**40)),
    "a chain of 5,000 nodes": _computed(
        _constant("c0", 1),
        *(_node("Identity", [f"c{n}"], f"c{n + 1}") for n in range(5000)),
        _node("Identity", ["c5000"]),
    ),
    "a value that is made of itself": _computed(_node("Concat", ["out", "out"], axis=0)),
    "layers in a ring": _endless,
    "5,000 GRU nodes": _million,
    "a large weight in 900 nodes": _shared,
    "hidden_size as text": _option("hidden_size", "3"),
    "another hidden_size": _option("hidden_size", 2**62),
    "another direction": _option("direction", "sideways"),
    "activations without end": _option("activations", ["Sigmoid"] * 100_000),
    "an activation from a file": _option("activations", ["../secret", "Tanh"] * 2),
    "a clip that is no number": _option("clip", float("nan")),
    "a clip below zero": _option("clip", -1.0),
    "an attribute of its own": _option("__class__", "x"),
}

_first = _node("GRU", ["x", "W", "R"], "y", hidden_size=1)
ONNX_BURDENS: dict[str, Any] = {
    "the shape of an output, 50,000 times": (
        _layers("t"),
        [_first, *(_node("Shape", ["y"], f"s{n}") for n in range(50_000)), _node("Squeeze", ["y"], "t")],
        [],
    ),
    "a node of 100,000 inputs": (_layers("c"), [_first, _node("Concat", ["y"] + ["W"] * 100_000, "c", axis=0)], []),
    "a first state of 100,000 parts": (_layers("x", "h"), [_node("Concat", ["x"] * 100_000, "h", axis=0)], []),
    "20,000 large inputs": (_layers("x", "i7"), [], [(f"i{n}", 1, [255, 255]) for n in range(20_000)]),
}


class Index(Subject):
    """The index of a checkpoint in several files, of which there is one."""

    def good(self, path: Path) -> None:
        gru_xp.GRU(2, 3, seed=0).save(path.parent / "one.safetensors")
        names = [f"{kind}_{side}_l0" for kind in ("weight", "bias") for side in ("ih", "hh")]
        metadata = {"written by": "somebody" * 20}  # where a change may do no harm
        path.write_text(json.dumps({"metadata": metadata, "weight_map": dict.fromkeys(names, "one.safetensors")}))

    def attacks(self, folder: Path, good: bytes) -> Iterator[tuple[str, Path]]:
        path = folder / "attack.index.json"
        (folder / "link.safetensors").symlink_to(folder.parent / "nothing")
        for what, files in {
            "a path upwards": "../secret",
            "a whole path": str(folder.parent / "secret"),
            "a path of Windows": "..\\secret",
            "the folder above": "..",
            "itself": path.name,
            "a link to nothing": "link.safetensors",
            "no name": "",
            "a name with a null": "one\0.safetensors",
            "no string": {"one.safetensors": 1},
        }.items():
            path.write_text(json.dumps({"weight_map": {"weight_hh_l0": files}}))
            yield what, path
        path.write_text('{"weight_map":' * 100_000)
        yield "deep JSON", path


SUBJECTS = (
    Index("index", ".index.json"),
    Onnx("onnx", ".onnx"),
    Safetensors("safetensors", ".safetensors"),
    *WEIGHTS,
    *TENSORFLOW,
)
