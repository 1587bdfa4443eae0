"""Compiled kernels as Python sees them: called with bytes, on one thread or several."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import astuple
from functools import cache
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from gru_xp_cpu.passes.fields import CALL, SIZES, Kind
from gru_xp_cpu.threads.autotune import Pace

from .memory import LARGE, empty
from .plan import SMALL, Plan, plan

if TYPE_CHECKING:
    from gru_xp_cpu.emit.module import Module
    from gru_xp_cpu.emit.target import DType, Target
    from gru_xp_cpu.threads.owner import Owner

__all__ = ["Kernel", "Layout", "build", "kernel"]

DTYPES: dict[str, DType] = {"f": "float32", "d": "float64"}
#: multiply-adds of a call that keeps the interpreter lock: a few microseconds
QUICK = 100_000
#: multiply-adds up to which it is tried whether one thread is faster than several
TRIED = 50_000_000


class Layout:
    """What calls of one size have in common: a plan, and the first and the last fields as bytes."""

    def __init__(self, plan: Plan, alone: Any, pace: Pace | None):
        self.alone = alone  # the kernel on one thread: alone(fields)
        self.threads, self.pace = plan.threads, pace
        self.segment, self.size, self.sizes = plan.segment, plan.size, plan.sizes
        T, N, I, H = self.sizes.T, self.sizes.N, self.sizes.I, self.sizes.H
        most = max(T * N * max(I, H), 3 * H * max(I, H))  # elements of the largest array
        self.empty = np.empty if most * 8 < LARGE else empty  # which `empty` would come to for each of them
        self.head = struct.pack(f"{len(SIZES)}q", *astuple(self.sizes))
        self._offsets, self._known = plan.offsets, (0, b"")

    def places(self, address: int) -> tuple[int, ...]:
        """The places in scratch memory that begins at `address`."""
        return tuple(address + at for at in self._offsets)

    def tail(self, address: int) -> bytes:
        """The same as bytes; the last ones are kept."""
        known = self._known  # once, and both in one: another thread may put its own there meanwhile
        if known[0] != address:
            self._known = known = address, struct.pack(f"{len(self._offsets)}q", *self.places(address))
        return known[1]


class Kernel:
    """A kernel for this target and one dtype: `layout.alone(fields)` or `together(fields, layout)`.

    If any array is not what the sizes say they compute nothing and return the number of such arrays.
    """

    def __init__(self, kind: Kind, dtype: DType, owner: Owner | None):
        from gru_xp_cpu.emit.compiler import machine
        from gru_xp_cpu.emit.target import current
        from gru_xp_cpu.threads import openmp, threadpool, workers

        threadpool.register()

        self._target, self._kind, self._dtype = current(), kind, dtype
        code = machine(self._target, kind, dtype, build)
        self._address, alone = code.address(kind), code.address(f"{kind}_alone")
        # to give the interpreter lock away and to queue up for it again would take longer than a very small call
        self._quick: Any = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(alone)
        self._alone: Any = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(alone)
        self._misfits: Any = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(code.address("misfits"))
        arguments = ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64
        self._shares: Any = ctypes.CFUNCTYPE(None, *arguments)(self._address)
        team = workers if owner is None else openmp.team(owner)
        self._threads, self._run, self._solo = team.thread_count, team.run, workers.SOLO
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self._small: dict[tuple[int, ...], Layout] = {}  # of calls for one thread, whatever threads there are
        #: packs the fields between a layout's head and its tail, the last one being the address of the arrays
        self.pack = struct.Struct(f"{len(CALL[kind])}q").pack

    def layout(self, T: int, N: int, I: int, H: int, recompute: bool = False) -> Layout:
        """How to run a call of this size."""
        layout = self._small.get((T, N, I, H, recompute))
        if layout is not None:
            return layout
        work = T * N * 3 * H * (I + H)
        threads = 1 if work < SMALL else self._threads()
        key = (T, N, I, H, threads, recompute)
        try:
            return self._layouts[key]
        except KeyError:
            if len(self._layouts) > 1000:
                self._layouts.clear()
                self._small.clear()
            found = plan(self._kind, self._target, self._dtype, T, N, I, H, threads, recompute)
            alone = self._quick if work < QUICK else self._alone
            pace = Pace() if found.threads > 1 and work < TRIED else None
            layout = self._layouts[key] = Layout(found, alone, pace)
            if work < SMALL:
                self._small[T, N, I, H, recompute] = layout
            return layout

    def together(self, fields: bytes, layout: Layout) -> int:
        """Run on several threads, or on this one in as many shares."""
        misfits: int = self._misfits(fields)
        if misfits:
            return misfits
        pace = layout.pace
        if pace is None or pace.settled():
            self._go(fields, layout, pace is not None and pace.alone)
        else:
            start = perf_counter_ns()
            self._go(fields, layout, pace.alone)
            pace.note(perf_counter_ns() - start)
        return 0

    def _go(self, fields: bytes, layout: Layout, alone: bool) -> None:
        if alone or self._run(self._target, self._address, fields, layout.threads) < 0:
            self._shares(fields, 0, layout.threads, self._solo)


def build(target: Target, kind: Kind, dtype: DType) -> Module:
    """Write a kernel and the ways to call it. What writes code is imported only here, where code is written."""
    from gru_xp_cpu.emit.module import Module
    from gru_xp_cpu.passes.kernels import KERNELS, alone
    from gru_xp_cpu.passes.misfits import misfits

    from .custom_call import connect, custom_call

    module = Module(target, dtype)
    KERNELS[kind].export(module, kind)
    misfits.export(module, "misfits", kind=kind)
    alone.export(module, f"{kind}_alone", kind=kind)
    connect.export(module, "connect")
    custom_call.export(module, f"{kind}_of_xla", kind=kind)
    return module


@cache
def kernel(kind: Kind, char: str, owner: Owner | None) -> Kernel:
    """The kernel "forward" or "backward" for a dtype by its character; made, or read from disk, at the first call.

    `owner` is the library whose threads run it, None for workers of ours.
    """
    return Kernel(kind, DTYPES[char], owner)
