"""What people put around a state_dict, and what torch.save makes of it; pickles that would take for ever."""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import pickle
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch

import gru_xp
from gru_xp import errors, files
from gru_xp.params import weights_of

I, H = 4, 5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.pt"


@pytest.fixture
def layer() -> torch.nn.GRU:
    torch.manual_seed(0)
    return torch.nn.GRU(I, H)


def assert_same_bits(model: gru_xp.GRU, layer: torch.nn.GRU) -> None:
    for own, theirs in zip(weights_of(model.params), layer.parameters(), strict=True):
        assert own.tobytes() == theirs.detach().numpy().tobytes()


# ---- containers ------------------------------------------------------------------------------------------------------


class AttrDict(dict[str, Any]):
    """As many projects write it."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.__dict__ = self


class Subclass(dict[str, Any]):
    pass


class Listed(list[Any]):
    pass


class Named(NamedTuple):
    model: Any
    epoch: int = 3


class Slotted:
    __slots__ = ("epoch", "model")

    def __init__(self, model: Any):
        self.model, self.epoch = model, 3


@dataclasses.dataclass
class Record:
    model: Any
    epoch: int = 3


class Keyed:
    """A key that is no name and no number."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Keyed)

    def __hash__(self) -> int:
        return 0


def tagged(weights: dict[str, Any]) -> dict[str, Any]:
    copies = {name: tensor.clone() for name, tensor in weights.items()}
    for tensor in copies.values():
        tensor.tag = "x"
    return copies


def as_numpy(weights: dict[str, Any], **options: Any) -> dict[str, np.ndarray]:
    return {name: np.array(tensor.numpy(), **options) for name, tensor in weights.items()}


CONTAINERS: dict[str, Callable[[Any], Any]] = {
    "defaultdict": lambda weights: collections.defaultdict(int, weights),
    "Counter": collections.Counter,
    "a subclass of dict": Subclass,
    "a subclass of dict with attributes": AttrDict,
    "a subclass of OrderedDict": lambda weights: types.new_class("X", (), {}) and collections.OrderedDict(weights),
    "a subclass of list": lambda weights: Listed([1, weights]),
    "deque": lambda weights: collections.deque([weights]),
    "a named tuple": Named,
    "an object with slots": Slotted,
    "a dataclass": Record,
    "a namespace": lambda weights: types.SimpleNamespace(model=weights),
    "partial": lambda weights: functools.partial(print, weights),
    "keys of all kinds": lambda weights: {
        key: weights if key == 7 else 1 for key in (7, (1, (2, 3)), Keyed(), None, 1.5, b"b", torch.float32, int)
    },
    "a set and a frozen set beside it": lambda weights: {"names": {*weights}, "more": frozenset("ab"), "sd": weights},
    "tensors with attributes": tagged,
    "NumPy's arrays": as_numpy,
    "NumPy's arrays, by columns": functools.partial(as_numpy, order="F"),
    "NumPy's arrays of the other byte order": functools.partial(as_numpy, dtype=">f4"),
    "an array beside it": lambda weights: {"sd": weights, "best": np.arange(3.0), "step": np.float32(2)},
    "parameters": lambda weights: {name: torch.nn.Parameter(tensor) for name, tensor in weights.items()},
    "buffers": lambda weights: {name: torch.nn.Buffer(tensor) for name, tensor in weights.items()},
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("what", CONTAINERS)
def test_a_state_dict_in_any_container(path: Path, layer: torch.nn.GRU, what: str, protocol: int) -> None:
    torch.save(CONTAINERS[what](layer.state_dict()), path, pickle_protocol=protocol)
    assert_same_bits(gru_xp.load(path), layer)


def test_bfloat16_of_numpy(path: Path, layer: torch.nn.GRU) -> None:
    torch.save(as_numpy(layer.state_dict(), dtype=ml_dtypes.bfloat16), path)
    model = gru_xp.load(path, backend="torch")
    for own, theirs in zip(weights_of(model.params), layer.parameters(), strict=True):
        assert torch.equal(own, theirs.to(torch.bfloat16))


def test_arrays_under_keys_that_read_the_same_are_both_listed(path: Path, layer: torch.nn.GRU) -> None:
    other = torch.nn.GRU(I, H)
    torch.save({1: layer.state_dict(), "1": other.state_dict()}, path)
    found = files.contents(path)
    assert len(found.grus) == 1 and len(found.ignored) == 4  # the second, as 1.weight_ih_l0'


class Tagged(torch.Tensor):
    """Whose functions may do anything."""


NOT_PLAIN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a masked array": (lambda a: np.ma.masked_array(a.numpy(), mask=False), "a masked array of NumPy"),
    "a matrix": (lambda a: a.numpy().view(np.matrix) if a.ndim == 2 else a.numpy(), "matrix of NumPy"),
    "objects": (lambda a: a.numpy().astype(object), "O8"),
    "a subclass of Tensor": (lambda a: a.as_subclass(Tagged), r"Tagged"),
    "negated": (torch._neg_view, r"numbers to be negated or conjugated: save its resolve_neg\(\)"),
}


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_arrays_that_are_more_than_their_numbers_are_refused(path: Path, layer: torch.nn.GRU, what: str) -> None:
    make, said = NOT_PLAIN[what]
    torch.save({name: make(tensor) for name, tensor in layer.state_dict().items()}, path)
    with pytest.raises(errors.ConversionError, match=f"expected arrays of one of float16.*, got .*{said}"):
        gru_xp.load(path)


def rezipped(path: Path, *, compression: int = zipfile.ZIP_STORED, folder: str | None = None) -> None:
    """As a program for archives leaves it."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name if folder is None else folder + name.partition("/")[2], data)


@pytest.mark.parametrize("folder", [None, "", "renamed/"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_zipped_again(path: Path, layer: torch.nn.GRU, compression: int, folder: str | None) -> None:
    torch.save({"a": layer}, path)
    rezipped(path, compression=compression, folder=folder)
    assert_same_bits(gru_xp.load(path), layer)


def test_a_pickle_of_python_2(path: Path, layer: torch.nn.GRU) -> None:
    """Strings are bytes there, an OrderedDict is made from pairs, and PyTorch before 0.4 had `_rebuild_tensor`."""
    torch.save(layer.state_dict(), path)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    tensors = []
    for key, (name, tensor) in enumerate(layer.state_dict().items()):
        size = b"(" + b"".join(b"K%c" % n for n in tensor.shape) + b"t"
        stride = b"(" + b"".join(b"K%c" % n for n in tensor.stride()) + b"t"
        storage = b"(U\x07storagectorch\nFloatStorage\nU\x01%dU\x03cpuK%ctQ" % (key, tensor.numel())
        made = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\0" + size + stride + b"tR"
        tensors.append(b"(U%c" % len(name) + name.encode() + made + b"l")
    program = b"\x80\x02ccollections\nOrderedDict\n((" + b"".join(tensors) + b"ltR."
    with zipfile.ZipFile(path, "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, program if entry.endswith("data.pkl") else data)
    assert_same_bits(gru_xp.load(path), layer)


# ---- what would take for ever ----------------------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    """A tuple of one tuple twice, `depth` times: to hash or to print it takes 2**depth steps."""
    return b"Va\n\x85" + b"2\x86" * depth


DOUBLING = {
    "a key": b"}" + nested(60) + b"K\x01s.",
    "a key among others": b"}(" + nested(60) + b"K\x01" + nested(60) + b"K\x02u.",
    "a key of a dict made at once": b"(" + nested(60) + b"K\x01d.",
    "a key of an OrderedDict": b"ccollections\nOrderedDict\n((" + b"(" + nested(60) + b"K\x01ltltR.",
    "a key of a subclass of dict": b"cm\nC\n)\x81" + nested(60) + b"K\x01s.",
    "an element of a set": b"\x8f(" + nested(60) + b"\x90.",
    "an element of a frozen set": b"(" + nested(60) + b"\x91.",
    "the name of a storage": b"(Vstorage\nctorch\nFloatStorage\n" + nested(60) + b"Vcpu\nK\x01tQ.",
    "the kind of a storage": b"(Vstorage\n" + nested(60) + b"V0\nVcpu\nK\x01tQ.",
    "a persistent number": nested(60) + b"Q.",
    "the size of a tensor": b"ctorch._utils\n_rebuild_tensor_v2\n(NK\0" + nested(60) + b"K\x01\x85tR.",
    "a function": nested(60) + b")R.",
    "arguments": b"ctorch._utils\n_rebuild_tensor_v2\n" + nested(60) + b"R.",
    "a state": b"cm\nC\n)\x81" + nested(60) + b"b.",
    "a list": b"(" + nested(60) + b"l.",
    "the shape of an array": b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\ntR(K\x01"
    + nested(60)
    + b"NNNtb.",
}
GROWING = {
    "long sizes again and again": b"("
    + b"K\x01" * 50_000
    + b"tp0\n0ctorch\nSize\np1\n0("
    + b"g1\ng0\n\x85R" * 20_000
    + b"l.",
    "long arguments again and again": b"(" + b"K\x01" * 50_000 + b"tp0\n0cm\nC\np1\n0(" + b"g1\ng0\nR" * 20_000 + b"l.",
    "long pairs again and again": b"("
    + b"(K\x01K\x01t" * 20_000
    + b"lp0\n0ccollections\nOrderedDict\np1\n0("
    + b"g1\ng0\n\x85R" * 20_000
    + b"l.",
    "long names again and again": b"V" + b"a" * 100_000 + b"\np0\n0(" + b"g0\ng0\n\x93" * 20_000 + b"l.",
}
WATCHED = """
import resource, sys, gru_xp
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from gru_xp import files
files.formats()
for path in sys.argv[1:]:
    try:
        print("read", files.contents(path).grus)
    except gru_xp.errors.FileFormatError as error:
        print("refused", str(error)[:80].replace(chr(10), " "))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are those of Linux")
@pytest.mark.parametrize("programs", [DOUBLING, GROWING], ids=["doubling", "growing"])
def test_small_pickles_take_neither_time_nor_memory(tmp_path: Path, programs: dict[str, bytes]) -> None:
    """Each ends, in a process of its own with a limit, with nothing or with an error; undone, they took for ever."""
    paths = []
    for what, program in programs.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("m/data.pkl", b"\x80\x02" + program)
        paths.append(tmp_path / f"{what}.pt")
        paths[-1].write_bytes(buffer.getvalue())
    ran = subprocess.run([sys.executable, "-c", WATCHED, *paths], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    said = dict(zip(programs, ran.stdout.splitlines(), strict=True))
    assert all(line.startswith("refused") or line == "read ()" for line in said.values()), said


def test_python_itself_takes_long_over_the_nested_tuples() -> None:
    """A check of the check: in Python itself a tuple nested 22 times takes a noticeable number of steps to print."""
    assert len(repr(pickle.loads(b"\x80\x02" + nested(16) + b"."))) > 2**16


def test_compressed_bombs_are_refused(path: Path) -> None:
    weights = torch.nn.GRUCell(I, H).state_dict()
    torch.save(weights | {"weight_ih": torch.zeros(3 * H, 1 << 20)}, path)
    rezipped(path, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(errors.FileFormatError, match="asks for more numbers than a file of its size can hold"):
        gru_xp.load(path)
    torch.save({"text": "a" * (1 << 25)} | weights, path)
    rezipped(path, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(errors.FileFormatError, match=r"data\.pkl: expected at most \d+ bytes, got"):
        gru_xp.load(path)
