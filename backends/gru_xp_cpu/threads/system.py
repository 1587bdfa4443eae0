"""What the operating system does for threads: block and wake them, and say on which cores they are.

A thread blocks on an address as long as the integer there, of 32 bits, is the expected one: Linux calls that a futex,
Windows `WaitOnAddress`, macOS `__ulock_wait`, as libc++ uses it. A wait may end for no reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import Any

from llvmlite import ir

from gru_xp_cpu.emit.code import Code, Integer, Integers, Value
from gru_xp_cpu.emit.module import I32, I64, PTR

from .shared import SYNC, SYSTEM, call_at

__all__ = ["block", "core", "functions", "leave_core", "pause", "wake"]

#: integers that hold a set of cores
CORES = 16
#: of Linux: the number of the system call by the processor, and its operations within one process
FUTEX = {"x86_64": 202, "aarch64": 98, "arm64": 98}
WAIT, WAKE, PRIVATE, ALL = 0, 1, 128, 0x7FFFFFFF
#: of macOS: to compare 32 bits and wait, and to wake all
COMPARE_AND_WAIT, WAKE_ALL = 1, 0x100


def functions() -> dict[str, int]:
    """Addresses of `shared.SYSTEM`, 0 for what this system does not have."""
    found: dict[str, Any] = {}
    if sys.platform == "win32":
        with contextlib.suppress(OSError):
            library = ctypes.CDLL("api-ms-win-core-synch-l1-2-0")
            found = {"wait": library.WaitOnAddress, "wake": library.WakeByAddressAll}
    elif sys.platform == "darwin":
        library = ctypes.CDLL(None)
        found = {name: getattr(library, f"__ulock_{name}", None) for name in ("wait", "wake")}
    else:
        library = ctypes.CDLL(None)
        names = {"core_of": "sched_getcpu", "may_use": "sched_getaffinity", "use": "sched_setaffinity"}
        found = {name: getattr(library, function, None) for name, function in names.items()}
        if sys.platform == "linux" and _futexes_work(library.syscall):
            found |= {"wait": library.syscall, "wake": library.syscall}
    return {name: _address(found.get(name)) for name in SYSTEM}


def _address(function: Any) -> int:
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


def _futexes_work(syscall: Any) -> bool:
    """A sandbox may forbid them."""
    import platform

    word = ctypes.c_int32()
    number = FUTEX.get(platform.machine())
    if number is None:
        return False
    result: int = syscall(*map(ctypes.c_long, (number, ctypes.addressof(word), WAKE | PRIVATE, 1, 0, 0, 0)))
    return result == 0


def block(c: Code, sync: Integers, place: Integer, expected: Integer, milliseconds: int | None = None) -> None:
    """Give the core away until `wake`, if the expected value is still in the record; no longer than `milliseconds`."""
    where, function, value = sync.at(place).integer().ir, sync.load(SYNC["wait"]), c.integer(expected)
    low = c.b.and_(value.ir, I64(0xFFFFFFFF))
    if _system(c) == "linux":
        until: Any = I64(0)
        if milliseconds is not None:
            time = c.stack_integers(2)
            time.store(0, 0)
            time.store(1_000_000 * milliseconds, 1)
            until = time.integer().ir
        _futex(c, function, where, WAIT, low, until)
    elif _system(c) == "windows":
        room = c.stack_integers(1)
        room.store(value)
        limit = I32(-1 if milliseconds is None else milliseconds)
        call_at(c, function, I32, [c.b.inttoptr(where, PTR), room.ir, I64(4), limit])
    else:
        limit = I32(0 if milliseconds is None else 1000 * milliseconds)
        call_at(c, function, I32, [I32(COMPARE_AND_WAIT), c.b.inttoptr(where, PTR), low, limit])


def wake(c: Code, sync: Integers, place: Integer) -> None:
    """Wake all threads that block there."""
    where, function = sync.at(place).integer().ir, sync.load(SYNC["wake"])
    if _system(c) == "linux":
        _futex(c, function, where, WAKE, I64(ALL), I64(0))
    elif _system(c) == "windows":
        call_at(c, function, ir.VoidType(), [c.b.inttoptr(where, PTR)])
    else:
        call_at(c, function, I32, [I32(COMPARE_AND_WAIT | WAKE_ALL), c.b.inttoptr(where, PTR), I64(0)])


def _system(c: Code) -> str:
    triple = c.module.target.triple
    return next((name for name in ("linux", "windows") if name in triple), "darwin")


def _futex(c: Code, syscall: Value, address: Any, operation: int, value: Any, until: Any) -> None:
    number = FUTEX[c.module.target.triple.partition("-")[0]]
    call_at(c, syscall, I64, [I64(number), address, I64(operation | PRIVATE), value, until, I64(0), I64(0)])


def pause(c: Code) -> None:
    """Wait some ten nanoseconds, or a few more."""
    if c.module.target.x86:
        c.b.call(c.intrinsic("llvm.x86.sse2.pause", ir.FunctionType(ir.VoidType(), [])), [])
    else:  # `yield` costs nothing there; that one empties the pipeline
        c.b.call(c.intrinsic("llvm.aarch64.isb", ir.FunctionType(ir.VoidType(), [I32])), [I32(15)])


def core(c: Code, sync: Integers) -> Value:
    """The core that this thread runs on, -1 where the system does not say."""
    number = c.variable(-1)
    with c.when(sync.load(SYNC["core_of"]) > 0):
        number.set(Value(c, c.b.sext(call_at(c, sync.load(SYNC["core_of"]), I32, []), I64)))
    return number.get()


def leave_core(c: Code, sync: Integers, number: Value) -> None:
    """Move this thread to another core, if there is one that it may use; later it may be on any of them again."""
    allowed, others, some = c.stack_integers(CORES), c.stack_integers(CORES), c.variable(0)
    with c.when(number >= 0), c.when(number < 64 * CORES), c.when(sync.load(SYNC["use"]) > 0):
        for word in range(CORES):
            allowed.store(0, word)

        def of_this_thread(function: str, cores: Integers) -> None:
            call_at(c, sync.load(SYNC[function]), I32, [I32(0), I64(8 * CORES), cores.ir])

        of_this_thread("may_use", allowed)
        with c.loop(0, CORES) as i:
            left = allowed.load(i) & c.select(i.equals(number // 64), (c.integer(1) << (number % 64)) ^ -1, -1)
            others.store(left, i)
            some.set(some.get() | left)
        with c.when(some.get().equals(0) ^ True):
            of_this_thread("use", others)
            of_this_thread("use", allowed)
