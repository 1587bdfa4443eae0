"""A pickle that `torch.save` wrote, as a tree of records. None of its code runs.

A pickle is a program. Here all that it may call are a few functions that make records; everything else that it names
becomes a `Thing`, which holds what it was given and does nothing. Time and memory are bounded by the size of the file:
tuples that share their parts can be small and yet take forever to hash or to print, so neither is done with anything
but numbers and strings, and what a call would copy is counted.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np

from gru_xp.errors import FileFormatError
from gru_xp.formats.pytorch.quantised import dequantised
from gru_xp.formats.pytorch.storages import DTYPES, MOST_AXES, Budget, Storage, sizes, unreadable, view
from gru_xp.stored import Tensor

__all__ = ["Thing", "unpickled"]

MOST_CLASSES = 1000  # that a pickle names
LONGEST = 1000  # characters of a class's name
TYPED = ("build_tensorlist", "build_doublelist", "build_intlist", "build_boollist", "restore_type_tag")  # of lists
PLAIN = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")


class Thing:
    """An object of a class that is not known here: which one, what it was made from, and what it was filled with."""

    origin = ""

    def __init__(self, args: Any = ()):
        self.args: Any = args
        self.state: Any = None
        self.items: dict[Any, Any] = {}
        self.elements: list[Any] = []

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        self.elements.append(value)

    def extend(self, values: Any) -> None:
        self.elements.extend(values)


def unpickled(
    file: BinaryIO,
    storage: Callable[[Storage], np.ndarray],
    budget: Budget,
    found: dict[str, Storage] | None = None,
) -> Any:
    """The tree of dicts, lists, `Tensor`s and `Thing`s; anything may be raised for a damaged one.

    Args:
        file: where the pickle begins.
        storage: reads the numbers of a storage, (size,), when a tensor needs them.
        budget: of bytes that are copied.
        found: is given the storages that tensors name.
    """
    return _Reader(file, storage, budget, {} if found is None else found).load()


class _Bounded:
    """A file that is never asked for more than its size, for which a buffered one would take memory."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, self.size))


class _Reader(pickle._Unpickler):
    """The pickle machine in Python, whose memory grows with the file and not with the numbers in it.

    Of its instructions those that call something call what `find_class` gave, and nothing else.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]]
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(
        self,
        file: BinaryIO,
        storage: Callable[[Storage], np.ndarray],
        budget: Budget,
        found: dict[str, Storage],
    ):
        super().__init__(_Bounded(file, budget.size), encoding="latin1")  # pickles of Python 2 have bytes for strings
        self.size = budget.size
        self.storage, self.budget, self.found = storage, budget, found
        self.classes: dict[str, type[Thing]] = {}
        self.functions: dict[str, Callable[..., Any]] = {
            "collections.OrderedDict": self.ordered_dict,
            "collections.defaultdict": lambda *_: {},
            "torch.Size": self.size_of_tensor,
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": _first,
            "torch._utils._rebuild_parameter_with_state": _first,
            "torch._utils._rebuild_qtensor": self.quantised,
            "torch._tensor._rebuild_from_type_v2": self.of_type,
            **{f"torch.jit._pickle.{name}": _first for name in TYPED},
        }

    # ---- what it names and calls -------------------------------------------------------------------------------------

    def find_class(self, module: str, name: str) -> Any:
        if len(module) + len(name) > LONGEST:
            raise FileFormatError(f"expected names of classes of at most {LONGEST} characters")
        path = f"{module}.{name}"
        if path in self.functions:
            return self.functions[path]
        if path not in self.classes:
            if len(self.classes) >= MOST_CLASSES:
                raise FileFormatError(f"expected at most {MOST_CLASSES} classes")
            self.classes[path] = type("Thing", (Thing,), {"origin": path})
        return self.classes[path]

    def _made(self, function: Any, args: Any) -> Any:
        if _is_class(function):
            return function(args)
        if not any(function is each for each in self.functions.values()):
            raise FileFormatError("calls what is neither a class nor a function")
        if type(args) not in (tuple, list) or len(args) > MOST_AXES:
            raise FileFormatError("calls a function with what are no arguments of it")
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

    # ---- what would hash or allocate ---------------------------------------------------------------------------------

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_key(key)] = value

    def _set_items(self) -> None:
        pairs = self.pop_mark()
        target = self.stack[-1]
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            target[_key(key)] = value

    def _dict(self) -> None:
        pairs = self.pop_mark()
        self.append({_key(key): value for key, value in zip(pairs[::2], pairs[1::2], strict=True)})

    def _empty_set(self) -> None:
        self.append([])

    def _add_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].extend(items)

    def _frozen_set(self) -> None:
        items = self.pop_mark()  # which changes what `append` is
        self.append(items)

    def _byte_array(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > self.size:
            raise FileFormatError(f"expected at most {self.size} bytes, got {size}")
        self.append(self.read(size))

    def ordered_dict(self, pairs: Any = (), *_: Any) -> dict[Any, Any]:
        """Empty, to be filled; Python 2 gave it its pairs."""
        self.budget.spend(8 * len(pairs))
        return {_key(key): value for key, value in pairs}

    # ---- tensors -----------------------------------------------------------------------------------------------------

    def persistent_load(self, pid: Any) -> Any:
        if type(pid) is tuple and pid[0] == "module":
            return pid[1]  # a class, with its source beside it
        if type(pid) is not tuple or len(pid) < 5 or pid[0] != "storage" or not _is_class(pid[1]):
            raise FileFormatError("expected a storage")
        key, size = pid[2], pid[4]
        if type(key) is not str or type(size) is not int or size < 0:
            raise FileFormatError("expected a storage with a name and a size")
        name = pid[1].origin.removeprefix("torch.").removesuffix("Storage")
        self.found[key] = Storage(key, DTYPES.get(name, pid[1].origin), size)
        return self.found[key]

    def size_of_tensor(self, values: Any = ()) -> tuple[Any, ...]:
        """A short tuple."""
        return sizes(values)

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Tensor:
        """A view of a storage; nothing is read yet. `more`: requires_grad, hooks, what is done to the numbers."""
        if type(storage) is not Storage:
            raise FileFormatError("expected a tensor, got one without a storage")
        tensor = view(storage, offset, size, stride, self.storage, self.budget)
        if len(more) > 2 and isinstance(more[2], dict) and any(value is True for value in more[2].values()):
            return Tensor(tensor.shape, "numbers to be negated or conjugated: save its resolve_neg()", unreadable)
        return tensor

    def quantised(self, storage: Any, offset: Any, size: Any, stride: Any, scheme: Any, *_: Any) -> Tensor:
        return dequantised(self.tensor(storage, offset, size, stride), scheme)

    def of_type(self, function: Any, kind: Any, args: Any, *_: Any) -> Any:
        """A tensor with attributes; or of a class that may be more than its numbers, which is not read."""
        made = self._made(function, args)
        if not isinstance(made, Tensor) or (_is_class(kind) and kind.origin in PLAIN):
            return made
        return Tensor(made.shape, kind.origin[:100] if _is_class(kind) else "unknown", unreadable)


UNUSED = (pickle.NEXT_BUFFER, pickle.READONLY_BUFFER, pickle.EXT1, pickle.EXT2, pickle.EXT4)
_Reader.dispatch = {
    **{opcode: action for opcode, action in pickle._Unpickler.dispatch.items() if bytes([opcode]) not in UNUSED},
    pickle.REDUCE[0]: _Reader._reduce,
    pickle.NEWOBJ[0]: _Reader._reduce,
    pickle.NEWOBJ_EX[0]: _Reader._reduce_with_names,
    pickle.BUILD[0]: _Reader._build,
    pickle.SETITEM[0]: _Reader._set_item,
    pickle.SETITEMS[0]: _Reader._set_items,
    pickle.DICT[0]: _Reader._dict,
    pickle.EMPTY_SET[0]: _Reader._empty_set,
    pickle.ADDITEMS[0]: _Reader._add_items,
    pickle.FROZENSET[0]: _Reader._frozen_set,
    pickle.BYTEARRAY8[0]: _Reader._byte_array,
}


def _key(key: Any) -> Any:
    """A key that hashes at once: what is no name and no number becomes one that nobody asks for."""
    simple = type(key) in (str, bool, float, type(None)) or (type(key) is int and key.bit_length() <= 64)
    return key if simple else Thing()


def _is_class(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Thing)


def _first(data: Any, *_: Any) -> Any:
    """A parameter is its tensor, and a list of a type is a list."""
    return data
