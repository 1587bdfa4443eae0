"""For `hostile.py`: PyTorch's, Keras's, NumPy's, RTNeural's files and other people's safetensors, good and harmful."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hostile import Subject

import gru_xp

Files = Iterator[tuple[str, Path]]


class Bomb:
    """Runs code where it is unpickled, which the audit hook of the child sees."""

    def __reduce__(self) -> Any:
        return exec, ("import os; os.system('true')",)


def rezipped(data: bytes, change: Callable[[str, bytes], Any], how: int = zipfile.ZIP_STORED) -> bytes:
    """The archive with each entry's bytes changed, or (name, bytes), or None to leave it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", how, compresslevel=1) as new:
        for name in old.namelist():
            changed = change(name, old.read(name))
            if changed is not None:
                new.writestr(*(changed if isinstance(changed, tuple) else (name, changed)))
    return buffer.getvalue()


def squeezed(**arrays: Any) -> bytes:
    """NumPy's archive, compressed."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def npy_head(head: bytes) -> bytes:
    """The beginning of an array."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def lying_zip(data: bytes, name: str, packed: int, size: int) -> bytes:
    """The archive with another size of an entry, compressed and not, in its directory."""
    at = data.index(b"PK\x01\x02")
    while data[at + 46 : at + 46 + len(name)] != name.encode():
        at = data.index(b"PK\x01\x02", at + 4)
    return data[: at + 20] + struct.pack("<II", packed, size) + data[at + 28 :]


class TorchFile(Subject):
    """What torch.save writes of a state_dict, of a whole module, and in the way before PyTorch 1.6."""

    whole, old = False, False

    def good(self, path: Path) -> None:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.GRU(2, 2, bidirectional=True))
        thing = model if self.whole else {"model": model.state_dict(), "epoch": 3}
        torch.save(thing, path, _use_new_zipfile_serialization=not self.old)

    def attacks(self, folder: Path, good: bytes) -> Files:
        path = folder / f"attack{self.suffix}"
        cell = torch.nn.GRUCell(2, 2).state_dict()
        for what, thing in {"a bomb": Bomb(), "bombs in a list": [Bomb()], "a bomb and no GRU": {"a": Bomb()}}.items():
            torch.save(thing, path, _use_new_zipfile_serialization=not self.old)
            yield what, path
        path.write_bytes(pickle.dumps(Bomb()))
        yield "a bare pickle", path
        if self.old or self.whole:
            return
        torch.save(cell, path)
        data = path.read_bytes()
        programs = {
            "calls os.system": b"cos\nsystem\n(Vtrue\ntR.",
            "calls by INST": b"(Vtrue\nios\nsystem\n.",
            "an endless byte array": pickle.BYTEARRAY8 + (1 << 40).to_bytes(8, "little") + b".",
            "an endless memo": b"N" + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f.",
            "laughter": b"(lp0\n" + b"".join(b"(lp%d\n" % (n + 1) + b"g%d\na" % n * 10 for n in range(40)) + b".",
            "deep": b"(" * 200_000 + b"l" * 200_000 + b".",
            "many tuples in tuples": b")" + b"\x85" * 500_000 + b".",
            "many classes": b"(" + b"".join(b"cm\nC%d\n" % n for n in range(200_000)) + b"l.",
            "long names": b"(d" + b"".join(b"V%s%d\nNs" % (b"a" * 5000, n) for n in range(100)) + b".",
        }
        for what, program in programs.items():
            path.write_bytes(rezipped(data, lambda name, old, p=program: p if name.endswith("data.pkl") else old))
            yield what, path
        large = torch.zeros(750_000)
        weights = {"weight_ih": large[:1500].view(1500, 1), "weight_hh": large.view(1500, 500)}
        torch.save({str(index): dict(weights) for index in range(500)}, path)
        yield "a storage in 500 models", path
        sizes = {"2**62 numbers": (1 << 31, 1 << 31), "no numbers": (0, 0)}
        for what, size in sizes.items():
            shape = [pickle.dumps(each, 2)[2:].removesuffix(b"q\0.") for each in ((6, 2), size)]
            path.write_bytes(
                rezipped(data, lambda name, old, s=shape: old.replace(s[0], s[1]) if name.endswith("data.pkl") else old)
            )
            yield what, path
        path.write_bytes(lying_zip(data, next(n for n in _names(data) if n.endswith("data/1")), 1 << 30, 1 << 30))
        yield "a storage of 2**30 bytes", path
        pickled = next(n for n in _names(data) if n.endswith("data.pkl"))
        path.write_bytes(lying_zip(data, pickled, 1 << 30, len(zipfile.ZipFile(io.BytesIO(data)).read(pickled))))
        yield "a pickle packed into 2**30 bytes", path
        path.write_bytes(rezipped(data, lambda name, old: (name.replace("attack/", "../"), old)))
        yield "names that lead upwards", path
        path.write_bytes(
            rezipped(data, lambda name, old: (f"/{folder.parent}/secret", old) if "data/1" in name else old)
        )
        yield "a storage that is the secret", path
        bomb = bytes(1 << 28)
        path.write_bytes(
            rezipped(data, lambda name, old: old + bomb if name.endswith("/1") else old, zipfile.ZIP_DEFLATED)
        )
        yield "a zip bomb", path


class WholeModule(TorchFile):
    whole = True


class OldTorchFile(TorchFile):
    old = True


class ScriptFile(Subject):
    """What torch.jit.save writes: code beside the arrays."""

    def good(self, path: Path) -> None:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.freeze(torch.jit.script(torch.nn.Sequential(torch.nn.GRU(2, 2)).eval())), path)

    def attacks(self, folder: Path, good: bytes) -> Files:
        path = folder / f"attack{self.suffix}"
        calls = {
            "100,000 calls": b"torch.gru(a, b, [c], True, 1, 0., False, False, True)\n" * 100_000,
            "a call in a call in a call": b"torch.gru(" * 100_000,
            "names without end": b"".join(b"    a%d = a%d\n" % (n, n + 1) for n in range(100_000)),
        }
        for what, text in calls.items():
            code = b"class Sequential(Module):\n  def forward(self: Any):\n" + text
            path.write_bytes(rezipped(good, lambda name, old, c=code: c if name.endswith(".py") else old))
            yield what, path
        bomb = b"#" * (1 << 28)
        path.write_bytes(rezipped(good, lambda name, old: bomb if name.endswith(".py") else old, zipfile.ZIP_DEFLATED))
        yield "a bomb of code", path


class ExportFile(Subject):
    """What torch.export.save writes: tables in JSON, and arrays in entries of their own."""

    def good(self, path: Path) -> None:
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(torch.nn.Sequential(torch.nn.GRU(2, 2)).eval(), (torch.zeros(3, 1, 2),))
            torch.export.save(program, path)

    def attacks(self, folder: Path, good: bytes) -> Files:
        path = folder / f"attack{self.suffix}"
        changes: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
            "deep JSON": ("model.json", lambda _: b"[" * 200_000),
            "a list for a graph": ("model.json", lambda _: b'{"graph_module": []}'),
            "a table without end": ("weights_config.json", lambda old: old * 2),
            "2**40 numbers": (
                "weights_config.json",
                lambda old: old.replace(b'"as_int": 6', b'"as_int": 1099511627776'),
            ),
            "an array elsewhere": ("weights_config.json", lambda old: old.replace(b"weight_0", b"../../secret")),
            "a shape of words": ("weights_config.json", lambda old: old.replace(b'"as_int": 2', b'"as_int": "2"')),
        }
        for what, (ending, change) in changes.items():
            path.write_bytes(rezipped(good, lambda name, old, e=ending, c=change: c(old) if name.endswith(e) else old))
            yield what, path


def _names(data: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(data)).namelist()


class KerasFile(Subject):
    """A .keras file, or the HDF5 file in it alone."""

    def good(self, path: Path) -> None:
        gru_xp.GRU(2, 2, bidirectional=self.suffix == ".keras", seed=0).save(path)

    def attacks(self, folder: Path, good: bytes) -> Files:
        import h5py

        path = folder / f"attack{self.suffix}"
        zipped = self.suffix == ".keras"

        def written(weights: bytes) -> Path:
            path.write_bytes(
                rezipped(good, lambda name, old: weights if name.endswith(".h5") else old) if zipped else weights
            )
            return path

        def hdf5(fill: Callable[[Any], Any], **options: Any) -> bytes:
            buffer = io.BytesIO()
            with h5py.File(buffer, "w", **options) as file:
                fill(file)
            return buffer.getvalue()

        secret, place = str(folder.parent / "secret"), "layers/gru/cell/vars"
        kernels = {"0": np.zeros((2, 6), "f4"), "1": np.zeros((2, 6), "f4")}

        def external(file: Any) -> None:
            for name, array in kernels.items():
                file.create_dataset(f"{place}/{name}", array.shape, "f4", external=[(secret, 0, array.nbytes)])

        def linked(file: Any) -> None:
            file["layers"] = h5py.ExternalLink(secret, "/layers")

        def compressed(file: Any) -> None:
            for name in kernels:
                file.create_dataset(f"{place}/{name}", data=np.zeros((2000, 6000), "f4"), compression="gzip")

        def deep(file: Any) -> None:
            file.create_group("/".join("a" * 500))

        for what, fill in (("the secret", external), ("a link to it", linked), ("gzip", compressed), ("depth", deep)):
            yield what, written(hdf5(fill))
        yield "one array in 300 layers", written(_shared())
        yield "another format of HDF5", written(hdf5(lambda file: file.create_group("a"), libver="latest"))
        inner = zipfile.ZipFile(io.BytesIO(good)).read("model.weights.h5") if zipped else good
        for what, at, number in (
            ("a root beyond the end", 64, 1 << 60),
            ("a root that is the superblock", 64, 0),
            ("a root that overflows", 64, (1 << 64) - 16),
        ):
            yield what, written(inner[:at] + struct.pack("<Q", number) + inner[at + 8 :])
        for kind, name in ((b"TREE", "B-tree"), (b"HEAP", "heap"), (b"SNOD", "members")):
            yield f"no {name}", written(inner.replace(kind, b"XXXX"))
        tree = inner.index(b"TREE")
        circle = struct.pack("<4sBBHQQQQ", b"TREE", 0, 200, 500, 0, 0, 0, tree)
        yield "a B-tree in itself", written(inner[:tree] + circle + inner[tree + len(circle) :])
        if not zipped:
            return
        groups = hdf5(lambda file: [file.create_dataset(f"g{n}/x", data=[1.0]) for n in range(5000)]) + PADDING
        for what, change in {
            "a chain of 60,000 layers": lambda name, old: _chain(60_000) if name == "config.json" else old + PADDING,
            "15,000 LSTMs and no place for them": lambda name, old: _lstms(15_000) if name == "config.json" else groups,
            "deep JSON": lambda name, old: b"[" * 5_000_000 if name == "config.json" else old,
            "wide JSON": lambda name, old: b"[" + b"[]," * 30_000_000 + b"0]" if name == "config.json" else old,
            "a zip bomb": lambda name, old: bytes(1 << 28) if name.endswith(".h5") else old,
            "no weights": lambda name, old: None if name.endswith(".h5") else old,
            "no description": lambda name, old: None if name == "config.json" else old,
            "names that lead upwards": lambda name, old: (f"../{name}", old),
        }.items():
            path.write_bytes(rezipped(good, change, zipfile.ZIP_DEFLATED))
            yield what, path
        path.write_bytes(lying_zip(good, "model.weights.h5", 1 << 30, 1 << 30))
        yield "weights of 2**30 bytes", path


def _shared() -> bytes:
    """An HDF5 file of many layers, whose recurrent kernels all lie in the same place."""
    import h5py

    buffer, places = io.BytesIO(), [f"{layer}/cell/vars" for layer in range(300)]
    with h5py.File(buffer, "w", libver="earliest") as file:
        file["large"] = np.zeros((500, 1500), "f4")
        for place in places:
            file[f"{place}/0"], file[f"{place}/1"] = np.zeros((1, 1500), "f4"), np.zeros((1, 3), "f4")
        large, small = file["large"].id.get_offset(), [file[f"{place}/1"].id.get_offset() for place in places]
    data = bytearray(buffer.getvalue())
    for offset in small:
        layout = data.index(struct.pack("<QQ", offset, 12))
        data[layout : layout + 16] = struct.pack("<QQ", large, 4 * 500 * 1500)
        shape = data.rindex(struct.pack("<QQ", 1, 3) * 2, 0, layout)  # and the largest that it may have
        data[shape : shape + 32] = struct.pack("<QQ", 500, 1500) * 2
    return bytes(data)


PADDING = np.random.default_rng(0).bytes(500_000)  # so that the size of the file lets expect something


def _chain(count: int) -> bytes:
    """A model of layers that do nothing, each on the one before it."""
    layers = [
        {
            "class_name": "Dropout",
            "module": "keras.layers",
            "registered_name": None,
            "config": {"name": f"d{n}"},
            "inbound_nodes": [
                {"args": [{"class_name": "__keras_tensor__", "config": {"keras_history": [f"d{n - 1}", 0, 0]}}]}
            ],
        }
        for n in range(count)
    ]
    return json.dumps({"class_name": "Functional", "config": {"layers": layers}}).encode()


def _lstms(count: int) -> bytes:
    layers = [{"class_name": "LSTM", "module": "keras.layers", "config": {"name": str(n)}} for n in range(count)]
    return json.dumps({"class_name": "Sequential", "config": {"layers": layers}}).encode()


class NpzFile(Subject):
    """NumPy's archive."""

    def good(self, path: Path) -> None:
        gru_xp.GRU(2, 2, seed=0).save(path)

    def attacks(self, folder: Path, good: bytes) -> Files:
        path = folder / "attack.npz"
        objects = io.BytesIO()
        np.savez(objects, weight_ih=np.array([Bomb()], object), weight_hh=np.array([Bomb()], object))
        for what, data in {
            "objects": objects.getvalue(),
            "2**62 numbers": rezipped(good, lambda name, old: old.replace(b"(6, 2)", b"(%d,)" % 2**62)),
            "a shape that is code": rezipped(good, lambda name, old: old.replace(b"(6, 2)", b"exit()")),
            "a bomb": rezipped(
                good, lambda name, old: old + bytes(1 << 28) if "weight_hh" in name else old, zipfile.ZIP_DEFLATED
            ),
            "a long head": rezipped(good, lambda name, old: old[:8] + b"\xff\xff" + old[10:]),
            "names that lead upwards": rezipped(good, lambda name, old: (f"../../{name}", old[:-8])),
            "an honest bomb": squeezed(
                weight_ih=np.zeros((18_000, 1), "f4"), weight_hh=np.zeros((18_000, 6_000), "f4")
            ),
            "a header of brackets": rezipped(good, lambda name, old: npy_head(b"{'descr': " + b"-" * 9000 + b"1}")),
            "entries of 2**30 bytes": lying_zip(good, "weight_ih_l0.npy", 1 << 30, 1 << 30),
        }.items():
            path.write_bytes(data)
            yield what, path


class RTNeuralFile(Subject):
    """JSON."""

    def good(self, path: Path) -> None:
        gru_xp.GRU(2, 2, seed=0).save(path)

    def attacks(self, folder: Path, good: bytes) -> Files:
        path = folder / "attack.json"
        layer = json.loads(good)["layers"][0]
        for what, text in {
            "depth": b"[" * 1_000_000,
            "deep weights": b'{"layers": [{"type": "gru", "shape": [2], "weights": ['
            + b"[" * 900
            + b"]" * 900
            + b"]}]}",
            "a million numbers, deep": b'{"weight_hh": ' + b"[" * 900 + b"1," * 1_000_000 + b"1" + b"]" * 900 + b"}",
            "a long number": b'{"weight_hh": [' + b"9" * 1_000_000 + b"]}",
            "a large number": b'{"weight_hh": [1e99999]}',
            "ragged": json.dumps({"layers": [layer | {"weights": [[[1.0], [1.0, 2.0]]] * 3}]}).encode(),
            "another H": json.dumps({"layers": [layer | {"shape": [10**9]}]}).encode(),
            "words": json.dumps({"layers": [layer | {"weights": ["abc"] * 3}]}).encode(),
        }.items():
            path.write_bytes(text)
            yield what, path


class StateDictInJson(Subject):
    """As RTNeural's torch_helpers take it."""

    def good(self, path: Path) -> None:
        torch.manual_seed(0)
        arrays = torch.nn.GRU(2, 2).state_dict()
        path.write_text(json.dumps({name: array.tolist() for name, array in arrays.items()}))


class MLXFile(Subject):
    """MLX's names, one bias and a half."""

    def good(self, path: Path) -> None:
        gru_xp.GRU(2, 3, num_layers=2, seed=0).save(path, format="mlx")


class OtherSafetensors(Subject):
    """PyTorch's names in a file that gru_xp did not write."""

    def good(self, path: Path) -> None:
        from safetensors.torch import save_file

        torch.manual_seed(0)
        save_file(torch.nn.Sequential(torch.nn.GRU(2, 2, 2)).state_dict(), path)

    def attacks(self, folder: Path, good: bytes) -> Files:
        from safetensors.numpy import save_file

        path = folder / "attack.safetensors"
        arrays = {"weight_ih": np.zeros((6, 2), "f4"), "weight_hh": np.zeros((6, 2), "f4")}
        layers = {f"{name}_l{'9' * 5}": a for name, a in arrays.items()}
        for what, content in {
            "100,000 layers": layers,
            "two directions, one there": {f"{name}_l0_reverse": a for name, a in arrays.items()},
            "no numbers": {name: a[:0, :0] for name, a in arrays.items()},
            "long names": {f"{'a.' * 10_000}{name}": a[:5] for name, a in arrays.items()},
            "names of nothing": {".": arrays["weight_ih"], "": arrays["weight_hh"]},
        }.items():
            save_file({name: np.ascontiguousarray(a) for name, a in content.items()}, path)
            yield what, path


WEIGHTS = (
    KerasFile("keras", ".keras"),
    KerasFile("keras weights", ".weights.h5"),
    NpzFile("npz", ".npz"),
    RTNeuralFile("rtneural", ".json"),
    StateDictInJson("state_dict in JSON", ".json"),
    OtherSafetensors("safetensors of others", ".safetensors"),
    MLXFile("mlx", ".safetensors"),
    MLXFile("mlx npz", ".npz"),
    TorchFile("torch", ".pt"),
    WholeModule("torch module", ".pt"),
    OldTorchFile("torch before 1.6", ".pt"),
    ScriptFile("torch.jit", ".pt"),
    ExportFile("torch.export", ".pt2"),
)
