"""Arrays flush against a page that may not be touched: what reads or writes one element too many dies of it at once.

NumPy lets a program say how the memory of arrays is allocated (NEP 49). While `guarded` lasts, each array that NumPy
makes, inside of kernels too, begins right behind an unreadable page or ends right before one.
"""

from __future__ import annotations

import ctypes
import mmap
import re
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


class Handler(ctypes.Structure):
    """NumPy's `PyDataMem_Handler`."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


#: NumPy frees arrays while an exception is pending too, when no Python function may be called; so these are native.
#: A piece of memory is a page that says how large it is, then the array's pages, with the guard on one side of them.
NATIVE = """
declare ptr @mmap(ptr, i64, i32, i32, i32, i64)
declare i32 @munmap(ptr, i64)
declare i32 @mprotect(ptr, i64, i32)
declare ptr @memcpy(ptr, ptr, i64)
declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)
declare ptr @llvm.ptrmask.p0.i64(ptr, i64)

define ptr @allocate(ptr %context, i64 %asked) {{
  %size = call i64 @llvm.umax.i64(i64 %asked, i64 1)
  %more = add i64 %size, {page} - 1
  %whole = and i64 %more, -{page}
  %all = add i64 %whole, 2 * {page}
  %head = call ptr @mmap(ptr null, i64 %all, i32 {protection}, i32 {flags}, i32 -1, i64 0)
  %failed = icmp eq ptr %head, inttoptr (i64 -1 to ptr)
  br i1 %failed, label %none, label %made
none:
  ret ptr null
made:
  store i64 %all, ptr %head
  %second = getelementptr i8, ptr %head, i64 8
  store i64 %size, ptr %second
  %behind = add i64 %whole, {page}
  %flush = sub i64 %behind, %size
  %at = select i1 {before}, i64 {page}, i64 %behind
  %from = select i1 {before}, i64 2 * {page}, i64 %flush
  %guard = getelementptr i8, ptr %head, i64 %at
  %start = getelementptr i8, ptr %head, i64 %from
  %done = call i32 @mprotect(ptr %guard, i64 {page}, i32 0)
  %guarded = icmp eq i32 %done, 0
  %result = select i1 %guarded, ptr %start, ptr null
  ret ptr %result
}}

define ptr @zeros(ptr %context, i64 %count, i64 %each) {{
  %size = mul i64 %count, %each
  %start = call ptr @allocate(ptr %context, i64 %size)
  ret ptr %start
}}

define ptr @head(ptr %start) {{
  %page = call ptr @llvm.ptrmask.p0.i64(ptr %start, i64 -{page})
  %back = select i1 {before}, i64 -2 * {page}, i64 -{page}
  %head = getelementptr i8, ptr %page, i64 %back
  ret ptr %head
}}

define void @free_guarded(ptr %context, ptr %start, i64 %size) {{
  %null = icmp eq ptr %start, null
  br i1 %null, label %end, label %there
there:
  %head = call ptr @head(ptr %start)
  %all = load i64, ptr %head
  %done = call i32 @munmap(ptr %head, i64 %all)
  br label %end
end:
  ret void
}}

define ptr @again(ptr %context, ptr %start, i64 %size) {{
  %moved = call ptr @allocate(ptr %context, i64 %size)
  %null = icmp eq ptr %start, null
  %none = icmp eq ptr %moved, null
  %nothing = or i1 %null, %none
  br i1 %nothing, label %end, label %there
there:
  %head = call ptr @head(ptr %start)
  %second = getelementptr i8, ptr %head, i64 8
  %before = load i64, ptr %second
  %least = call i64 @llvm.umin.i64(i64 %before, i64 %size)
  %copied = call ptr @memcpy(ptr %moved, ptr %start, i64 %least)
  call void @free_guarded(ptr %context, ptr %start, i64 %before)
  br label %end
end:
  ret ptr %moved
}}
"""


def _compiled(side: Side) -> Any:
    """The native functions for one side; the engine must last as long as they do."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    numbers = {
        "page": PAGE,
        "protection": mmap.PROT_READ | mmap.PROT_WRITE,
        "flags": mmap.MAP_PRIVATE | mmap.MAP_ANON,
        "before": str(side == "before").lower(),
    }
    text = re.sub(r"(-?\d+) \* (\d+)", lambda m: str(int(m[1]) * int(m[2])), NATIVE.format(**numbers))
    module = llvm.parse_assembly(re.sub(r"(\d+) - 1\b", lambda m: str(int(m[1]) - 1), text))
    engine = llvm.create_mcjit_compiler(module, llvm.Target.from_default_triple().create_target_machine(jit=True))
    engine.finalize_object()
    return engine


def _handler(side: Side) -> Any:
    """A handler as NumPy wants it; it lasts as long as the process, because arrays may."""
    engine = _compiled(side)
    address = engine.get_function_address
    handler = Handler(
        f"guarded {side}".encode(),
        1,
        None,
        *map(address, ("allocate", "zeros", "again", "free_guarded")),
    )
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    for kept in (handler, engine):  # arrays are freed after modules are
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
    return new(ctypes.addressof(handler), b"mem_handler", None)


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
