"""How threads wait for each other: inside a kernel at a barrier, between kernels asleep at a lock.

All of it stands in one record of integers, `SYNC`; what one thread writes and others read has a cache line to itself.
At the barrier each thread writes how often it has come there, and reads that of the others: one line goes from core to
core, where a common counter would go there and back. Who waits gives its core away after a while, for there may be more
threads than cores.

A worker sleeps in `PyThread_acquire_lock`, the lock of Python itself, which needs no global interpreter lock and
exists on every system. So nothing spins when no kernel runs, and a worker wakes even while some thread is busy in
Python.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .code import I32, I64, PTR, Code, Pointer, Unit, Value

__all__ = ["LOCKS", "MOST", "PLACES", "SYNC", "meet", "serve_and_launch"]

#: places in the record; the locks of the workers follow LOCKS, the lines of all threads COME
SYNC = {"kernel": 0, "fields": 1, "parts": 2, "give_way": 3, "acquire": 4, "release": 5}
LOCKS, MOST, LINE = 8, 64, 8
COME = LOCKS + MOST
PLACES = COME + MOST * LINE

#: turns of a waiting loop before the core is given away; one turn is a pause of 10 to 140 cycles
PATIENCE = 60
#: more times than any thread comes to a barrier
DONE = 1 << 62


def meet(unit: Unit) -> None:
    """Emit `meet(sync, part, parts, times)`: wait until all have come as many times."""
    with unit.function("meet", "@sync part parts times") as c:
        sync = c.ints_at(c.sync)
        _come(c, sync, c.part, c.times)
        with c.loop(0, c.parts) as other:
            _wait(c, sync, other, c.times)


def _come(c: Code, sync: Pointer, part: Value, times: Value) -> None:
    place = c.b.ptrtoint(sync.at(part * LINE + COME).ir, I64)
    place = c.b.inttoptr(place, I64.as_pointer())  # llvmlite wants to see what it points at
    c.b.store_atomic(times.ir, place, "release", 8)


def _wait(c: Code, sync: Pointer, part: Value, times: Value) -> None:
    """Until that thread has come so many times."""

    def short(turns: Value) -> Value:
        count = c.b.load_atomic(sync.at(part * LINE + COME).ir, "acquire", 8, typ=I64)
        return Value(c, c.b.icmp_signed("<", count, times.ir))

    with c.loop_while(0, short) as turns:
        turn = turns.get()
        turns.set(turn + 1)
        _pause(c)
        give_way = sync.load(SYNC["give_way"])
        with c.when(turn > PATIENCE), c.when(give_way > 0):
            _call(c, give_way, I32, [])


def _pause(c: Code) -> None:
    if c.unit.target.x86:
        c.b.call(c.intrinsic("llvm.x86.sse2.pause", ir.FunctionType(ir.VoidType(), [])), [])
    else:
        c.b.call(c.intrinsic("llvm.aarch64.hint", ir.FunctionType(ir.VoidType(), [I32])), [I32(1)])


def _call(c: Code, address: Value, returns: Any, arguments: list[Any]) -> Any:
    """Call a C function by its address."""
    kind = ir.FunctionType(returns, [a.type for a in arguments])
    return c.b.call(c.b.inttoptr(address.ir, kind.as_pointer()), arguments)


def serve_and_launch(unit: Unit) -> None:
    """Emit `serve(sync, part)`, a worker's life, and `launch(sync, kernel, fields, parts)`, which has them work."""

    def run(c: Code, kernel: Value, fields: Value, part: Value, parts: Value) -> None:
        pointer = c.b.inttoptr(fields.ir, PTR) if fields.ir.type != PTR else fields.ir
        _call(c, kernel, ir.VoidType(), [pointer, part.ir, parts.ir, c.sync.ir])

    with unit.function("serve", "@sync part", public=True) as c:
        sync = c.ints_at(c.sync)
        lock = c.b.inttoptr(sync.load(c.part + LOCKS).ir, PTR)
        with c.loop_while(1, lambda kernel: kernel > 0) as kernel:
            _call(c, sync.load(SYNC["acquire"]), I32, [lock, I32(1)])
            kernel.set(sync.load(SYNC["kernel"]))
            with c.when(kernel.get() > 0):
                run(c, kernel.get(), sync.load(SYNC["fields"]), c.part, sync.load(SYNC["parts"]))
                _come(c, sync, c.part, c.integer(DONE))

    with unit.function("launch", "@sync kernel fields parts", public=True) as c:
        sync = c.ints_at(c.sync)
        with c.loop(0, c.parts) as part:
            sync.store(0, part * LINE + COME)
        sync.store(c.kernel, SYNC["kernel"])
        sync.store(c.fields, SYNC["fields"])
        sync.store(c.parts, SYNC["parts"])
        with c.loop(1, c.parts) as part:
            lock = c.b.inttoptr(sync.load(part + LOCKS).ir, PTR)
            _call(c, sync.load(SYNC["release"]), ir.VoidType(), [lock])
        run(c, c.kernel, c.fields, c.integer(0), c.parts)
        with c.loop(1, c.parts) as part:
            _wait(c, sync, part, c.integer(DONE))
