"""Classes of files that ask for more work than their size: long names, nesting, sharing, repetition, zeros, doubles.

`NAMED` writes arrays under given names in each container; `PREFIXES` are names that a careless search would go through
again and again. `CROOKED` are containers that are themselves made so. Each is as large as a good file, which says how
long reading may take.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from hostile_weights import npy_head, rezipped
from tensorflow_files import write_checkpoint

Arrays = dict[str, Any]
I, H = 1, 1


def torch_cell(prefix: str) -> Arrays:
    shapes = {"weight_ih": (3 * H, I), "weight_hh": (3 * H, H), "bias_ih": (3 * H,), "bias_hh": (3 * H,)}
    return {f"{prefix}{name}": np.ones(shape, "f4") for name, shape in shapes.items()}


def tensorflow_cell(prefix: str) -> Arrays:
    shapes = {"gates/kernel": (I + H, 2 * H), "gates/bias": (2 * H,), "candidate/kernel": (I + H, H)}
    return {f"{prefix}{name}": np.ones(s, "f4") for name, s in (shapes | {"candidate/bias": (H,)}).items()}


# ---- names -----------------------------------------------------------------------------------------------------------

PREFIXES = {
    "dots": "a.",
    "slashes": "a/",
    "dots and slashes": "a./",
    "numbers": "1",
    "directions": "fw/",
    "backward directions": "bw/",
    "levels": "cell_1/",
    "gates": "gates/",
    "dense": "dense_i.",
    "parametrizations": "parametrizations.weight_hh.",
    "packed": "_all_weight_values.0.param.",
    "halves": "forward_rnn.",
    "parts of a stack": "a+",
    "brackets": "([{",
}


def grus(prefix: str, length: int, count: int, cell: Callable[[str], Arrays] = torch_cell) -> Arrays:
    """That many cells, whose names begin with the prefix repeated to that length."""
    found: Arrays = {}
    for index in range(count):
        found |= cell(f"{prefix * (length // len(prefix))}{index}.")
    return found


def safetensors(path: Path, arrays: Arrays) -> None:
    from safetensors.numpy import save_file

    save_file(arrays, path)


def onnx_model(path: Path, arrays: Arrays) -> None:
    """Initialisers alone, as those of a cell that was written out."""
    tensors = [onnx.numpy_helper.from_array(a, name) for name, a in arrays.items()]
    graph = onnx.helper.make_graph([], "g", [], [], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def index(path: Path, arrays: Arrays) -> None:
    safetensors(path.with_name("one.safetensors"), arrays)
    path.write_text(json.dumps({"weight_map": dict.fromkeys(arrays, "one.safetensors")}))


def hdf5(path: Path, arrays: Arrays) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, a in arrays.items():
            file.create_dataset(name.replace("weight_", "recurrent_kernel"), data=a)


def torch_file(path: Path, arrays: Arrays, **options: Any) -> None:
    torch.save({name: torch.tensor(a) for name, a in arrays.items()}, path, **options)


class Named:
    """A container, its ending, how long names may be in it, and how many cells make a file of some 160 kB."""

    def __init__(
        self, suffix: str, write: Callable[[Path, Arrays], Any], length: int = 9000, cell: Any = torch_cell
    ) -> None:
        self.suffix, self.write, self.length, self.cell = suffix, write, length, cell
        self.count = max(2, 40_000 // length)

    def __call__(self, path: Path, prefix: str) -> Path:
        self.write(path, grus(prefix, self.length, self.count, self.cell))
        return path


NAMED = {
    "safetensors": Named(".safetensors", safetensors),
    "npz": Named(".npz", lambda path, arrays: np.savez(path, **arrays)),
    "index": Named(".index.json", index),
    "onnx": Named(".onnx", onnx_model),
    "torch": Named(".pt", torch_file, 450),
    "torch before 1.6": Named(
        ".pt", lambda path, arrays: torch_file(path, arrays, _use_new_zipfile_serialization=False), 450
    ),
    "json": Named(
        ".json", lambda path, arrays: path.write_text(json.dumps({n: a.tolist() for n, a in arrays.items()}))
    ),
    "hdf5": Named(".weights.h5", hdf5, 450),
    "checkpoint": Named(
        ".index", lambda path, arrays: write_checkpoint(path.with_suffix(""), arrays), 9000, tensorflow_cell
    ),
}

# ---- containers ------------------------------------------------------------------------------------------------------

SIZE = 160_000


def pickled(program: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + program)
        archive.writestr("m/version", "3\n")
    return buffer.getvalue()


STORAGE = b"(\x8c\x07storagectorch\nFloatStorage\n\x8c\x010\x8c\x03cpuK\x01tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00K\x01\x85K\x01\x85\x89NtRq\x00"  # in a memo
PICKLES: dict[str, bytes] = {
    "lists in lists": b"]" * SIZE + b"a" * (SIZE - 1) + b".",
    "tuples in tuples": b")" + b"\x85" * SIZE + b".",
    "a tuple of itself twice, 60 times": b"\x8c\x01a\x85" + b"2\x86" * 60 + b".",
    "a dict of itself twice, 60 times": b"}"
    + b"".join(b"q\x01}\x8c\x01ah\x01s\x8c\x01bh\x01s" for _ in range(60))
    + b".",
    "a list of one list, again and again": b"]q\x01](" + b"h\x01" * (SIZE // 2) + b"e.",
    "one tensor, again and again": TENSOR + b"0](" + b"h\x00" * (SIZE // 2) + b"e.",
    "names in names": b"".join(b"}\x8c\xff" + b"n" * 255 for _ in range(SIZE // 260))
    + b"}"
    + b"s" * (SIZE // 260)
    + b".",
    "strings without end": b"\x8d" + (SIZE).to_bytes(8, "little") + b"a" * SIZE + b"\x85" * 10 + b".",
    "numbers without end": b"\x8b" + (SIZE).to_bytes(4, "little") + b"\x7f" * SIZE + b".",
    "instances of instances": b"cm\nC\n)R" + b"cm\nC\n\x8c\x01s0)R" * (SIZE // 20) + b".",
    "states of states": b"cm\nC\n)R" + b"q\x01cm\nC\n)R}\x8c\x01ah\x01sb" * (SIZE // 30) + b".",
}


def doubled_entries(data: bytes) -> bytes:
    """A zip whose directory lists its entries again and again."""
    end = data.rindex(b"PK\x05\x06")
    size, start = (int.from_bytes(data[end + at : end + at + 4], "little") for at in (12, 16))
    directory = data[start : start + size]
    times = max(2, SIZE // len(directory))
    count = min(65_535, times * int.from_bytes(data[end + 10 : end + 12], "little"))
    tail = data[end : end + 8] + count.to_bytes(2, "little") * 2 + (size * times).to_bytes(4, "little")
    return data[:start] + directory * times + tail + data[end + 16 :]


def zeros(data: bytes, ending: str) -> bytes:
    """A zip one entry of which is followed by a gigabyte of zeros, compressed a thousandfold."""
    return rezipped(
        data, lambda name, old: old + bytes(1 << 28) if name.endswith(ending) else old, zipfile.ZIP_DEFLATED
    )


def of(container: str, path: Path) -> bytes:
    """A small good file."""
    NAMED[container].write(path, torch_cell("a."))
    return path.read_bytes()


def keras(path: Path, config: bytes | None = None) -> bytes:
    import gru_xp

    gru_xp.GRU(2, 2, seed=0).save(path.with_suffix(".keras"))
    data = path.with_suffix(".keras").read_bytes()
    return data if config is None else rezipped(data, lambda name, old: config if name == "config.json" else old)


def layers(count: int) -> bytes:
    """A description of layers in layers, as deep as there are any."""
    text = b'{"class_name": "Sequential", "config": {"layers": [%s]}}'
    inner = b""
    for _ in range(count):
        inner = text % inner
    return inner


def one_layer_again(name: str = "gru") -> bytes:
    layer = {"class_name": "GRU", "module": "keras.layers", "config": {"name": name, "units": 2}}
    return json.dumps({"class_name": "Sequential", "config": {"layers": [layer] * (SIZE // 90)}}).encode()


def many_arrays(path: Path) -> bytes:
    """An .npz that is all names."""
    array = npy_head(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }\n") + bytes(4)
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(SIZE // 300):
            archive.writestr(f"a{n}.npy", array)
    return path.read_bytes()


CROOKED: dict[str, dict[str, Callable[[Path], bytes]]] = {
    "torch": {
        **{what: lambda path, program=program: pickled(program) for what, program in PICKLES.items()},
        "entries listed again and again": lambda path: doubled_entries(of("torch", path)),
        "zeros in the pickle": lambda path: zeros(of("torch", path), "data.pkl"),
        "zeros in an array": lambda path: zeros(of("torch", path), "data/0"),
    },
    "npz": {
        "entries listed again and again": lambda path: doubled_entries(of("npz", path)),
        "zeros": lambda path: zeros(of("npz", path), "weight_hh.npy"),
        "nothing but small arrays": many_arrays,
    },
    "keras": {
        "entries listed again and again": lambda path: doubled_entries(keras(path)),
        "zeros": lambda path: zeros(keras(path), ".h5"),
        "a deep description": lambda path: keras(path, b"[" * SIZE),
        "models in models": lambda path: keras(path, layers(150)),
        "one layer, again and again": lambda path: keras(path, one_layer_again()),
    },
    "json": {
        "brackets": lambda path: b"[" * SIZE,
        "layers": lambda path: json.dumps({"layers": [{"type": "gru"}] * (SIZE // 20)}).encode(),
        "arrays of arrays": lambda path: (
            b'{"weight_hh": ' + b"[" * 7 + b"[1.0]," * (SIZE // 6) + b"[1.0]" + b"]" * 7 + b"}"
        ),
        "one key, again and again": lambda path: b"{" + b'"weight_hh": [[1.0]],' * (SIZE // 21) + b'"a": [1.0]}',
        "digits": lambda path: b'{"a": [' + b"1" * SIZE + b"]}",
    },
    "index": {
        "brackets": lambda path: b'{"weight_map":' * (SIZE // 14),
        "one array, again and again": lambda path: (
            b'{"weight_map": {' + b'"a": "one.safetensors",' * (SIZE // 24) + b'"b": "c"}}'
        ),
        "files that are not there": lambda path: json.dumps(
            {"weight_map": {f"gru.{n}.weight_hh_l0": f"{n}.safetensors" for n in range(SIZE // 50)}}
        ).encode(),
    },
    "safetensors": {
        "brackets": lambda path: SIZE.to_bytes(8, "little") + b"[" * SIZE,
        "layers": lambda path: _safetensors({f"g.weight_hh_l{n}": (3, 1) for n in range(SIZE // 90)}),
        "empty arrays": lambda path: _safetensors({f"{n}.weight_hh": (0, 0) for n in range(SIZE // 90)}),
    },
    "onnx": {
        "one name, again and again": lambda path: _initialisers(["cell.weight_hh"] * (SIZE // 40)),
        "many cells": lambda path: _initialisers([f"{n}.weight_hh" for n in range(SIZE // 100)]),
    },
}


def _safetensors(shapes: dict[str, tuple[int, ...]]) -> bytes:
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(at)


def _initialisers(names: list[str]) -> bytes:
    tensors = [onnx.numpy_helper.from_array(np.ones((3, 1), "f4"), name) for name in names]
    graph = onnx.helper.make_graph([], "g", [], [], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data
