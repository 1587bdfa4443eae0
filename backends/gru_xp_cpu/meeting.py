"""How threads wait for each other: inside a kernel at a barrier, between kernels asleep at a lock.

All of it stands in one record of integers, `SYNC`; what several threads write has a cache line to itself. The barrier
is a counter that only grows. Who waits there gives its core away after a while, for there may be more threads than
cores.

A worker sleeps in `PyThread_acquire_lock`, the lock of Python itself, which needs no global interpreter lock and
exists on every system. So nothing spins when no kernel runs, and a worker wakes even while some thread is busy in
Python.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .code import I32, I64, PTR, Code, Pointer, Unit, Value

__all__ = ["LOCKS", "SYNC", "meet", "serve_and_launch"]

#: places in the record; the locks of the workers 1, 2, ... follow LOCKS
SYNC = {"met": 0, "done": 8, "kernel": 16, "fields": 17, "parts": 18, "give_way": 19, "acquire": 20, "release": 21}
LOCKS = 24

#: turns of a waiting loop before the core is given away; one turn is a pause of 10 to 140 cycles
PATIENCE = 400


def meet(unit: Unit) -> None:
    """Emit `meet(sync, target)`: wait until the threads have met `target` times in sum."""
    with unit.function("meet", "@sync target") as c:
        sync = c.ints_at(c.sync)
        c.b.atomic_rmw("add", sync.at(SYNC["met"]).ir, I64(1), "acq_rel")
        _wait(c, sync, SYNC["met"], c.target)


def _wait(c: Code, sync: Pointer, place: int, target: Value) -> None:
    """Until a counter has reached its target."""

    def short(turns: Value) -> Value:
        count = c.b.load_atomic(sync.at(place).ir, "acquire", 8, typ=I64)
        return Value(c, c.b.icmp_signed("<", count, target.ir))

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
                c.b.atomic_rmw("add", sync.at(SYNC["done"]).ir, I64(1), "release")

    with unit.function("launch", "@sync kernel fields parts", public=True) as c:
        sync = c.ints_at(c.sync)
        for name in ("met", "done"):
            sync.store(0, SYNC[name])
        sync.store(c.kernel, SYNC["kernel"])
        sync.store(c.fields, SYNC["fields"])
        sync.store(c.parts, SYNC["parts"])
        with c.loop(1, c.parts) as part:
            lock = c.b.inttoptr(sync.load(part + LOCKS).ir, PTR)
            _call(c, sync.load(SYNC["release"]), ir.VoidType(), [lock])
        run(c, c.kernel, c.fields, c.integer(0), c.parts)
        _wait(c, sync, SYNC["done"], c.parts - 1)
