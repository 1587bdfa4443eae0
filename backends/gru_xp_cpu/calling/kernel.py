"""Compiled kernels as Python sees them: called with bytes, on one thread or several."""

from __future__ import annotations

import ctypes
import struct
from functools import cache, partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from gru_xp_cpu.passes.digits import ROUNDING
from gru_xp_cpu.passes.fields import CALL, Kind
from gru_xp_cpu.threads.autotune import Autotuner

from .dtypes import dtype_of, name_of
from .plan import Plan, is_small, make_plan

if TYPE_CHECKING:
    from gru_xp_cpu.emit.module import Module
    from gru_xp_cpu.emit.target import DType, Target
    from gru_xp_cpu.threads.owner import Owner

__all__ = ["Kernel", "build", "forget", "kernel", "plan_of"]

#: multiply-adds of a call that keeps the interpreter lock: a few microseconds
QUICK = 100_000
#: multiply-adds up to which it is tried whether one thread is faster than several
TRIED = 50_000_000
#: plans that are kept of each kernel
MOST_PLANS = 1000


_small: dict[tuple[Any, ...], Plan] = {}  # of calls for one thread, whatever threads there are


def plan_of(
    kind: Kind, dtype: Any, owner: Owner | None, T: int, N: int, I: int, H: int, recompute: bool = False
) -> Plan:
    """How to run a call of this size on arrays of NumPy's dtype; `owner` and the other errors as for `kernel`."""
    key = kind, dtype, owner, T, N, I, H, recompute
    plan = _small.get(key)
    if plan is None:
        plan = kernel(kind, dtype_of(dtype), owner).plan(T, N, I, H, recompute)
        if is_small(kind, T, N, I, H):
            if len(_small) > MOST_PLANS:
                _small.clear()
            _small[key] = plan
    return plan


class Kernel:
    """A kernel for this target, arrays of one dtype and one owner."""

    def __init__(self, kind: Kind, dtype: Any, owner: Owner | None):
        from gru_xp_cpu.emit.compiler import machine
        from gru_xp_cpu.emit.target import current
        from gru_xp_cpu.threads import openmp, threadpool, workers

        threadpool.register()

        self._target, self.kind, self._dtype = current(), kind, dtype
        name = name_of(dtype)
        self.lanes = self._target.lanes(name)
        code = machine(self._target, kind, name, build)
        self._address, alone = code.address(kind), code.address(f"{kind}_alone")
        # to give the interpreter lock away and to queue up for it again would take longer than a very small call
        self._quick: Any = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(alone)
        self._alone: Any = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(alone)
        self._misfits: Any = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(code.address("misfits"))
        arguments = ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64
        self._shares: Any = ctypes.CFUNCTYPE(None, *arguments)(self._address)
        team = workers if owner is None else openmp.team(owner)
        self._threads, self._run, self._solo = team.thread_count, team.run, workers.SOLO
        self._plans: dict[tuple[int, ...], Plan] = {}
        self._pack = struct.Struct(f"{len(CALL[kind])}q").pack

    def plan(self, T: int, N: int, I: int, H: int, recompute: bool = False) -> Plan:
        """How to run a call of this size."""
        work = _work(T, N, I, H)
        threads = 1 if is_small(self.kind, T, N, I, H) else self._threads()
        key = (T, N, I, H, threads, recompute)
        try:
            return self._plans[key]
        except KeyError:
            if len(self._plans) > MOST_PLANS:
                self._plans.clear()
            plan = make_plan(self.kind, self._target, self._dtype, T, N, I, H, threads, recompute)
            plan.pack = self._pack
            if plan.threads > 1:
                plan.autotuner, plan.run = Autotuner() if work < TRIED else None, partial(self._together, plan)
            else:
                plan.run = self._quick if work < QUICK else self._alone
            self._plans[key] = plan
            return plan

    def _together(self, plan: Plan, fields: bytes) -> int:
        """Run on several threads, or on this one in as many shares."""
        misfits: int = self._misfits(fields)
        if misfits:
            return misfits
        autotuner = plan.autotuner
        if autotuner is None or autotuner.settled():
            self._go(fields, plan, autotuner is not None and autotuner.alone)
        else:
            start = perf_counter_ns()
            self._go(fields, plan, autotuner.alone)
            autotuner.note(perf_counter_ns() - start)
        return 0

    def _go(self, fields: bytes, plan: Plan, alone: bool) -> None:
        if alone or self._run(self._target, self._address, fields, plan.threads) < 0:
            self._shares(fields, 0, plan.threads, self._solo)


def _work(T: int, N: int, I: int, H: int) -> int:
    """The multiply-adds of a forward pass."""
    return T * N * 3 * H * (I + H)


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
    if kind not in ROUNDING:
        connect.export(module, "connect")
        custom_call.export(module, f"{kind}_of_xla", kind=kind)
    return module


def forget() -> None:
    """Make kernels and plans anew at the next calls."""
    kernel.cache_clear()
    _small.clear()


@cache
def kernel(kind: Kind, dtype: Any, owner: Owner | None) -> Kernel:
    """The kernel "forward" or "backward"; made, or read from disk, at the first call.

    `dtype` is the arrays', as `dtype_of` gives it; `owner` the library whose threads run it, None for workers of ours.
    """
    return Kernel(kind, dtype, owner)
