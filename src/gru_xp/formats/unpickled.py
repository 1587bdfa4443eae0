"""What is in a file that `torch.save` wrote, without running any of its code and without PyTorch.

Such a file is a zip of one pickle and the bytes of the storages. A pickle is a program; here all that it may call are
five functions that make records. Everything else that it names becomes a `Thing`, which holds its state and does
nothing. Files from before PyTorch 1.6, five pickles in a row and then the storages, are read too.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.formats.named import Tensor

__all__ = ["Thing", "is_saved_by_torch", "saved_by_torch"]

MOST_PICKLE = 1 << 26  # bytes
MOST_CLASSES = 1000  # that a pickle names
DTYPES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
}
MAGIC = 0x1950A86A20F9469CFC6C


class Thing:
    """An object of a class that is not known here: which one, what it was made from, and its state."""

    origin = ""

    def __init__(self, *args: Any, **_: Any):
        self.args = args
        self.state: Any = None

    def __setitem__(self, key: Any, value: Any) -> None:
        """What it was filled with has no place here."""

    def append(self, value: Any) -> None:
        """As above."""

    def extend(self, values: Any) -> None:
        """As above."""


class _Storage(NamedTuple):
    key: str
    dtype: str
    size: int


def is_saved_by_torch(head: bytes) -> bool:
    """Whether a file that begins so is one, whatever it is called."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]  # of a zip's first entry
    return (head[:4] == b"PK\x03\x04" and name.endswith(b"/data.pkl")) or _is_old(head)


def _is_old(head: bytes) -> bool:
    return head[:2] == b"\x80\x02" and MAGIC.to_bytes(10, "little") in head[:20]


def saved_by_torch(file: io.BufferedReader) -> Any:
    """The tree of dicts, lists, `Tensor`s and `Thing`s in a file. Anything may be raised for a damaged one."""
    budget = _Budget(file.seek(0, io.SEEK_END))
    if zipfile.is_zipfile(file):
        return _from_zip(zipfile.ZipFile(file), budget)
    file.seek(0)
    return _from_pickles(file, budget)


class _Budget:
    """How many bytes of numbers are read and copied: tensors may share a storage, but not without end."""

    def __init__(self, size: int):
        self.left = 2**25 + 8 * size

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise FileFormatError("asks for more numbers than a file of its size can hold")


def _from_zip(archive: zipfile.ZipFile, budget: _Budget) -> Any:
    entries = {info.filename: info for info in archive.infolist()}
    root = next(
        (name.removesuffix("data.pkl") for name in entries if re.fullmatch(r"([^/.][^/]*/)?data\.pkl", name)), None
    )
    if root is None:
        raise FileFormatError("a zip, but torch.save did not write it: it lacks data.pkl")

    def contents(name: str, most: int) -> bytes:
        info = entries[root + name]
        packed = info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size
        if packed or info.file_size > most:
            raise FileFormatError(f"{name}: expected at most {most} bytes, not compressed, got {info.file_size}")
        return archive.read(info)

    order = contents("byteorder", 10).decode() if f"{root}byteorder" in entries else "little"
    sign: Any = {"little": "<", "big": ">"}[order]

    @lru_cache(maxsize=1)  # all weights of a module may lie in one
    def storage(wanted: _Storage) -> np.ndarray:
        width = _numpy_dtype(wanted.dtype).itemsize
        budget.spend(wanted.size * width)
        data = contents(f"data/{wanted.key}", wanted.size * width)
        return np.frombuffer(data, _numpy_dtype(wanted.dtype).newbyteorder(sign), wanted.size)

    return _Reader(io.BytesIO(contents("data.pkl", MOST_PICKLE)), storage, budget).load()


def _from_pickles(file: io.BufferedReader, budget: _Budget) -> Any:
    """Magic number, version, byte order and sizes, the tree, the storages' keys; then each storage: count, values."""
    data = file.read()
    if not _is_old(data):
        raise FileFormatError("torch.save did not write it")
    buffer = io.BytesIO(data)
    found: dict[str, _Storage] = {}
    places: dict[str, int] = {}

    def storage(wanted: _Storage) -> np.ndarray:
        dtype = _numpy_dtype(wanted.dtype)
        return np.frombuffer(data, dtype.newbyteorder("<"), wanted.size, places[wanted.key])

    def load() -> Any:
        return _Reader(buffer, storage, budget, found).load()

    magic, version, system, tree, keys = (load() for _ in range(5))
    if magic != MAGIC or version != 1001 or not system["little_endian"]:
        raise FileFormatError("expected a little-endian file of version 1001")
    for key in keys:
        count = int.from_bytes(buffer.read(8), "little")
        if count != found[key].size:
            raise FileFormatError(f"storage {key}: expected {found[key].size} values, got {count}")
        places[key] = buffer.tell()
        buffer.seek(count * _numpy_dtype(found[key].dtype).itemsize, io.SEEK_CUR)
    return tree


class _Reader(pickle._Unpickler):
    """The pickle machine in Python, whose memory grows with the file and not with the numbers in it.

    Of its instructions those that call something call what `find_class` gave, and nothing else.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]]
    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(
        self,
        file: io.BytesIO,
        storage: Callable[[_Storage], np.ndarray],
        budget: _Budget,
        found: dict[str, _Storage] | None = None,
    ):
        super().__init__(file)
        self.storage, self.budget = storage, budget
        self.found = {} if found is None else found
        self.known: dict[str, Any] = {
            "collections.OrderedDict": _dict,
            "torch.Size": _tuple,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
        }

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path not in self.known:
            if len(self.known) >= MOST_CLASSES:
                raise FileFormatError(f"expected at most {MOST_CLASSES} classes")
            self.known[path] = type("Thing", (Thing,), {"origin": path})
        return self.known[path]

    def _made(self, function: Any, args: Any) -> Any:
        if not any(function is each for each in self.known.values()):
            raise FileFormatError(f"calls {str(function)[:100]}")
        return function(*args)

    def _reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._made(self.stack[-1], args)

    def _reduce_with_names(self) -> None:
        self.stack.pop()
        self._reduce()

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._made(klass, args))

    def _build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Thing):
            self.stack[-1].state = state

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] == "module":
            return pid[1]  # a class, with its source beside it
        kind, storage_type, key, _place, count = pid[:5]
        dtype = DTYPES.get(storage_type.origin.removeprefix("torch.").removesuffix("Storage"), storage_type.origin)
        if kind != "storage" or type(key) is not str or type(count) is not int or count < 0:
            raise FileFormatError(f"expected a storage, got {str(pid)[:100]}")
        self.found[key] = _Storage(key, dtype, count)
        return self.found[key]

    def tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        """A view of a storage; nothing is read yet."""
        size, stride = tuple(size), tuple(stride)
        whole = all(type(n) is int and 0 <= n < 1 << 48 for n in (offset, *size, *stride))
        if type(storage) is not _Storage or not whole or len(size) != len(stride) or len(size) > 64:
            raise FileFormatError(f"expected a tensor, got one of size {str(size)[:100]}")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if prod(size) > 0 and last >= storage.size:
            raise FileFormatError(f"a tensor {size} reads beyond the {storage.size} values of storage {storage.key}")

        def read() -> np.ndarray:
            values = self.storage(storage)
            if storage.dtype == "bfloat16":
                values = (values.astype("u4") << 16).view("f4")
            self.budget.spend(prod(size) * values.itemsize)
            steps = tuple(step * values.itemsize for step in stride)
            view = np.lib.stride_tricks.as_strided(values[offset:], size, steps, writeable=False)
            return np.array(view, view.dtype.newbyteorder("="), order="C", copy=True)

        return Tensor(size, storage.dtype, read)


UNUSED = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4)
_Reader.dispatch = {
    **{opcode: action for opcode, action in pickle._Unpickler.dispatch.items() if bytes([opcode]) not in UNUSED},
    pickle.REDUCE[0]: _Reader._reduce,
    pickle.NEWOBJ[0]: _Reader._reduce,
    pickle.NEWOBJ_EX[0]: _Reader._reduce_with_names,
    pickle.BUILD[0]: _Reader._build,
}


def _dict(*_: Any) -> dict[Any, Any]:
    return {}


def _tuple(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values) if isinstance(values, list | tuple) else ()


def _first(data: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    return data


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name not in DTYPES.values():
        raise FileFormatError(f"expected a storage of numbers, got {name}")
    return np.dtype("u2" if name == "bfloat16" else name)
