"""The kernels for XLA: their addresses, and the integers that a call of some size is given. See `custom_call`."""

from __future__ import annotations

import ctypes
import os
from dataclasses import astuple, replace
from functools import cache
from typing import Any

import numpy as np

from gru_xp_cpu.emit.compiler import lock, machine, source_digest
from gru_xp_cpu.emit.target import DType, current
from gru_xp_cpu.passes.fields import ARRAYS, HEADER, Kind
from gru_xp_cpu.threads.shared import SYNC
from gru_xp_cpu.threads.workers import SOLO, Workers
from gru_xp_cpu.threads.workers import code as workers_code

from .dtypes import dtype_of
from .kernel import build, kernel

__all__ = ["call", "handler"]


def call(
    kind: Kind,
    dtype: DType,
    sizes: tuple[int, int, int, int],
    own: tuple[int, ...],
    buffers: list[str],
    *,
    recompute: bool = False,
) -> Any:
    """The integers that a call with T, N, I, H = sizes is given besides its arrays, see `custom_call`.

    `own` are the fields of the call alone, `fields.CALL` without the arrays; `buffers` are the names of operands and
    results, `fields.ARRAYS`, in their order.
    """
    plan = kernel(kind, dtype_of(np.dtype(dtype)), None).plan(*sizes, recompute)
    if plan.threads > 1:
        with lock():
            if not _workers().ready(current(), plan.threads):
                _workers().sync[SYNC["taken"]] = 1  # for good: every caller works alone
    where = (buffers.index(name) if name in buffers else -1 for name in ARRAYS[kind])
    header = {"threads": plan.threads, "scratch": plan.size}
    # there are no objects of Python's: the kernel makes addresses of data instead of arrays
    objects = "items_at", "data_at", "type_at", "none", "array_type", "real_dtype", "gates_dtype", "boolean_dtype"
    first = replace(plan.sizes, **dict.fromkeys(objects, 0))
    fields = *astuple(first), *own, 0, *plan.offsets
    return np.array((*(header[name] for name in HEADER), *fields, *where), np.int64)


def handler(kind: Kind, dtype: DType) -> tuple[str, int]:
    """A kernel as a custom call of XLA: its name and its address.

    A compiled program that is kept for another process holds what `call` returned, so the name contains everything that
    depends on.
    """
    code = machine(current(), kind, dtype, build)
    with lock():
        ctypes.CFUNCTYPE(None, ctypes.c_int64)(code.address("connect"))(_workers().address)
    name = f"gru_xp-{kind}-{dtype}-{current().bits}-{source_digest().hex()[:16]}"
    return name, code.address(f"{kind}_of_xla")


@cache
def _workers() -> Workers:
    """The workers of all calls from XLA, which share them without Python; to be called under the lock."""
    workers = Workers()
    workers.sync[SYNC["offer"]] = workers_code(current()).address("offer")
    workers.sync[SYNC["nobody"]] = SOLO
    for name, function in (("allocate", "PyMem_RawMalloc"), ("free", "PyMem_RawFree")):
        workers.sync[SYNC[name]] = ctypes.cast(getattr(ctypes.pythonapi, function), ctypes.c_void_p).value
    if hasattr(os, "register_at_fork"):  # the child has none of the threads
        os.register_at_fork(after_in_child=lambda: workers.sync.__setitem__(SYNC["taken"], 1))
    return workers
