"""How a kernel gets its threads: workers of ours that sleep until it comes, or those of an OpenMP runtime.

A worker sleeps in the system as long as no kernel runs. It is called when one is launched; if it wakes only when all
has been done, it goes back to sleep. It reads what the caller gave before it says that it is inside, and nothing of the
caller's later but in the shares that it does: so the caller waits at the end for workers that are still entering, and
for no others.

A system may wake a worker on the caller's own core, though others idle (seen on Linux, for minutes); the two would then
take turns at every barrier. So a worker that finds itself there moves.

OpenMP's threads, see `openmp`, come and go with each kernel.
"""

from __future__ import annotations

from llvmlite import ir

from gru_xp_cpu.emit.code import Code, Integers, Value
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import I32, I64, PTR, Module
from gru_xp_cpu.emit.target import DType, Target

from .barrier import INSIDE
from .shared import CLAIM, DONE, STATE, SYNC, call_at, change, exchange, line, read, write
from .system import block, core, leave_core, pause, wake

__all__ = ["build", "offered"]

#: a worker sleeps or looks whether it may; is called; reads what it is given. Then it is INSIDE until it looks again
ASLEEP, CALLED, ENTERING = range(3)
#: pauses before the caller waits in the system for a worker that is entering: it may have been preempted
SPIN = 256


def build(target: Target, kind: str, dtype: DType) -> Module:
    """The module "threads"."""
    module = Module(target, dtype)
    for public in (serve, launch, offer, lend):
        public.export(module, public.__name__)
    return module


def offered(c: Code, sync: Integers, kernel: str, fields: Integers, parts: Value) -> None:
    """Write a call of `offer`."""
    address = c.b.ptrtoint(c.module.ir.get_global(kernel), I64)
    call_at(c, sync.load(SYNC["offer"]), ir.VoidType(), [sync.ir, address, fields.ir, parts.ir])


@function
def serve(c: Code, worker: Integers) -> None:
    """Live as a worker: it is given two integers, the address of the record and its number."""
    sync, part = c.pointer(Integers, worker.load(0)), worker.load(1)
    state = line(part, STATE)
    with c.loop_while(0, lambda i: i >= 0):

        def work() -> None:
            here = core(c, sync)
            with c.when(here.equals(sync.load(SYNC["core"]))):
                leave_core(c, sync, here)
            _run(c, sync, part)
            change(sync, state, INSIDE, ASLEEP)  # unless it has been called again

        c.either(change(sync, state, CALLED, ENTERING).equals(CALLED), work, lambda: block(c, sync, state, ASLEEP))


@function
def launch(c: Code, sync: Integers, kernel: Value, fields: Value, parts: Value) -> Value:
    """Run a kernel together with the workers; how often a thread blocked in it."""
    _prepare(c, sync, kernel, fields, parts)
    called = parts.min(sync.load(SYNC["workers"]) + 1)
    sync.store(core(c, sync), SYNC["core"])
    with c.loop(1, called) as part, c.when(exchange(sync, line(part, STATE), CALLED).equals(ASLEEP)):
        wake(c, sync, line(part, STATE))
    _run(c, sync, c.integer(0))
    with c.loop(1, called) as part:
        state = line(part, STATE)
        with (
            c.when(change(sync, state, CALLED, ASLEEP).equals(ENTERING)),
            c.loop_while(0, lambda _: read(sync, state).equals(ENTERING)) as turn,
        ):
            turn.set(turn.get() + 1)
            pause(c)
            with c.when(turn.get() > SPIN):
                block(c, sync, state, ENTERING, milliseconds=1)
    return _ended(sync)


@function
def offer(c: Code, sync: Integers, kernel: Value, fields: Value, parts: Value) -> None:
    """As `launch` for callers in native code: who finds the workers taken works alone."""

    def together() -> None:
        launch(c, sync, kernel, fields, parts)
        write(sync, SYNC["taken"], 0)

    def alone() -> None:
        solo = c.b.inttoptr(sync.load(SYNC["nobody"]).ir, PTR)
        given = c.b.inttoptr(fields.ir, PTR)
        call_at(c, kernel, ir.VoidType(), [given, I64(0), parts.ir, solo])

    c.either(change(sync, SYNC["taken"], 0, 1).equals(0), together, alone)


@function
def join(c: Code, sync: Integers) -> None:
    """Do what each thread of an OpenMP team has to do."""
    number = Value(c, c.b.sext(call_at(c, sync.load(SYNC["number"]), I32, []), I64))
    with c.when(number < sync.load(SYNC["parts"])):
        _run(c, sync, number)


@function
def lend(c: Code, sync: Integers, kernel: Value, fields: Value, parts: Value) -> Value:
    """As `launch`, with a team of OpenMP's threads."""
    _prepare(c, sync, kernel, fields, parts)
    called, in_parallel = c.b.bitcast(join.of(c.module), PTR), sync.load(SYNC["in_parallel"])
    call_at(c, in_parallel, ir.VoidType(), [called, sync.ir, c.b.trunc(parts.ir, I32), I32(0)])
    return _ended(sync)


def _prepare(c: Code, sync: Integers, kernel: Value, fields: Value, parts: Value) -> None:
    """Write down what the threads have to know of a kernel."""
    for name, value in (("kernel", kernel), ("fields", fields), ("parts", parts), ("blocked", 0)):
        sync.store(value, SYNC[name])
    number = sync.load(SYNC["sections"])
    with c.loop(0, parts) as part:
        write(sync, line(part, DONE), number)
        write(sync, line(part, CLAIM), number << 1)


def _ended(sync: Integers) -> Value:
    """When no thread can enter any more, go on with the numbers of the sections; how often a thread blocked."""
    sync.store(sync.load(SYNC["last"]), SYNC["sections"])
    return read(sync, SYNC["blocked"])


def _run(c: Code, sync: Integers, part: Value) -> None:
    """Run the kernel as one of its threads."""
    arguments = [c.b.inttoptr(sync.load(SYNC["fields"]).ir, PTR), part.ir, sync.load(SYNC["parts"]).ir, sync.ir]
    call_at(c, sync.load(SYNC["kernel"]), ir.VoidType(), arguments)
