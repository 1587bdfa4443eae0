"""The memory in which threads find their work and each other: one record of integers for each pool of them.

What a thread writes at every barrier has cache lines to itself: the number of the last section that is done of a share
is read by the others all the time, who is at work on it only by its owner as long as nobody is late.
"""

from __future__ import annotations

from typing import Any, TypeVar

from llvmlite import ir

from gru_xp.threads import MOST_THREADS as MOST
from gru_xp_cpu.emit.code import Code, Integer, Integers, Value
from gru_xp_cpu.emit.module import I64

__all__ = [
    "CLAIM",
    "DONE",
    "LINE",
    "LINES",
    "MOST",
    "NATIVE",
    "OPENMP",
    "PLACES",
    "STATE",
    "SYNC",
    "SYSTEM",
    "WAITERS",
    "WORKER",
    "add",
    "address_of",
    "call_at",
    "change",
    "exchange",
    "line",
    "read",
    "write",
]

#: of the kernel that runs: its address, that of its fields, its shares, the number of the last section before it and,
#: when it is over, of its own last; how often a thread blocked in it; whether its caller does all shares; the caller's
#: core; whether somebody has the pool
JOB = ("kernel", "fields", "parts", "sections", "last", "blocked", "solo", "core", "taken")
#: addresses of functions of the system, 0 for what it does not have, see `system`
SYSTEM = ("wait", "wake", "core_of", "may_use", "use")
#: addresses of functions of OpenMP's runtime, where its threads work
OPENMP = ("in_parallel", "number")
#: for callers without Python: the address of `offer`, the record of a caller that nobody helps, how many workers there
#: are, and addresses of functions of Python's that need no lock
NATIVE = ("offer", "nobody", "workers", "allocate", "free")
SYNC = {name: i for i, name in enumerate(JOB)} | {name: 16 + i for i, name in enumerate((*SYSTEM, *OPENMP, *NATIVE))}

#: after them three pairs of cache lines for each thread and the share of its number: the last section that is done; who
#: is at work, and how many wait in the system until it is done; the thread's state, and what it is started with. Pairs,
#: because processors fetch the neighbour of a line with it
LINES, LINE = 32, 48
DONE, CLAIM, WAITERS, STATE, WORKER = 0, 16, 17, 32, 33
PLACES = LINES + MOST * LINE


Number = TypeVar("Number", Value, int)


def line(thread: Number, place: int) -> Number:
    """Where a number of a thread, or of the share of its number, is in the record."""
    return thread * LINE + (LINES + place)


def address_of(sync: Integers, place: Integer) -> Any:
    """The address of an integer of the record, as llvmlite's atomic operations want it: typed."""
    c = sync.code
    return c.b.inttoptr(c.b.ptrtoint(sync.at(place).ir, I64), I64.as_pointer())


def read(sync: Integers, place: Integer) -> Value:
    """What another thread may write."""
    return Value(sync.code, sync.code.b.load_atomic(address_of(sync, place), "acquire", 8))


def write(sync: Integers, place: Integer, value: Integer) -> None:
    """For other threads to read, who then see all that was written before it, too."""
    sync.code.b.store_atomic(sync.code.integer(value).ir, address_of(sync, place), "release", 8)


def change(sync: Integers, place: Integer, old: Integer, new: Integer) -> Value:
    """Write `new` if `old` is there; what was found there."""
    c = sync.code
    both = c.b.cmpxchg(address_of(sync, place), c.integer(old).ir, c.integer(new).ir, "seq_cst", "seq_cst")
    return Value(c, c.b.extract_value(both, 0))


def exchange(sync: Integers, place: Integer, new: Integer) -> Value:
    """Write `new`; what was found there."""
    return _modify("xchg", sync, place, new)


def add(sync: Integers, place: Integer, number: int) -> Value:
    """Add to a number; what it was before."""
    return _modify("add", sync, place, number)


def _modify(how: str, sync: Integers, place: Integer, operand: Integer) -> Value:
    c = sync.code
    return Value(c, c.b.atomic_rmw(how, address_of(sync, place), c.integer(operand).ir, "seq_cst"))


def call_at(c: Code, address: Value, returns: Any, arguments: list[Any]) -> Any:
    """Call a C function by its address."""
    kind = ir.FunctionType(returns, [a.type for a in arguments])
    return c.b.call(c.b.inttoptr(address.ir, kind.as_pointer()), arguments)
