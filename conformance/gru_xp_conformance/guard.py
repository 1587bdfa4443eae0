"""Arrays flush against a page that may not be touched: what reads or writes one element too many dies of it at once.

NumPy lets a program say how the memory of arrays is allocated (NEP 49). While `guarded` lasts, each array that NumPy
makes, inside of kernels too, begins right behind an unreadable page or ends right before one.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

__all__ = ["Side", "guarded"]

#: where the page is: before the first byte of an array, or behind its last one
Side: TypeAlias = Literal["before", "behind"]
PAGE = mmap.PAGESIZE
#: of NumPy's table of functions for C: `PyDataMem_SetHandler`, see `__multiarray_api.h`
SET_HANDLER = 304
MALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
CALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
REALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Handler(ctypes.Structure):
    """NumPy's `PyDataMem_Handler`."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", MALLOC),
        ("calloc", CALLOC),
        ("realloc", REALLOC),
        ("free", FREE),
    )


class _Memory:
    """Pieces of memory with a page beside each."""

    def __init__(self, side: Side):
        self._side, self._libc = side, ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        self._libc.munmap.argtypes = self._libc.mmap.argtypes[:2]
        self._libc.mprotect.argtypes = *self._libc.mmap.argtypes[:2], ctypes.c_int
        self._pieces: dict[int, tuple[int, int, int]] = {}  # by their address: the mapping's, its size, their own

    def allocate(self, size: int) -> int | None:
        """Zeros."""
        whole = -(-max(size, 1) // PAGE) * PAGE
        base = self._libc.mmap(
            None, whole + PAGE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANON, -1, 0
        )
        if base in (None, ctypes.c_void_p(-1).value):
            return None
        guard, start = (base, base + PAGE) if self._side == "before" else (base + whole, base + whole - size)
        if self._libc.mprotect(guard, PAGE, 0):
            return None
        self._pieces[start] = base, whole + PAGE, size
        return start

    def free(self, address: int) -> None:
        base, whole, _ = self._pieces.pop(address)
        self._libc.munmap(base, whole)

    def again(self, address: int | None, size: int) -> int | None:
        """What C's `realloc` does."""
        moved = self.allocate(size)
        if address and moved:
            ctypes.memmove(moved, address, min(size, self._pieces[address][2]))
            self.free(address)
        return moved


def _handler(side: Side) -> Any:
    """A handler as NumPy wants it; it lasts as long as the process, because arrays may."""
    memory = _Memory(side)
    handler = Handler(
        f"guarded {side}".encode(),
        1,
        None,
        MALLOC(lambda _, size: memory.allocate(size)),
        CALLOC(lambda _, count, size: memory.allocate(count * size)),
        REALLOC(lambda _, address, size: memory.again(address, size)),
        FREE(lambda _, address, size: memory.free(address) if address else None),
    )
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    capsule = new(ctypes.addressof(handler), b"mem_handler", None)
    _forever.append((handler, memory))
    return capsule


_forever: list[Any] = []
_handlers: dict[Side, Any] = {}


def _set_handler() -> Callable[[Any], Any]:
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = pointer(np._core._multiarray_umath._ARRAY_API, None)  # type: ignore[attr-defined]
    function = (ctypes.c_void_p * (SET_HANDLER + 1)).from_address(table)[SET_HANDLER]
    kind = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)
    return kind(function)


@contextmanager
def guarded(side: Side) -> Iterator[None]:
    """Within it each new array of NumPy's has an unreadable page at its side."""
    if side not in get_args(Side):
        raise ValueError(f"side: expected one of {', '.join(get_args(Side))}, got {side!r}")
    if sys.platform == "win32":
        raise OSError("guard pages are made with mmap and mprotect, which Windows does not have")
    if side not in _handlers:
        _handlers[side] = _handler(side)
    set_handler = _set_handler()
    before = set_handler(_handlers[side])
    try:
        yield
    finally:
        set_handler(before)
