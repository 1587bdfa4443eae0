"""How threads work on a kernel together: asleep at a lock between kernels, at a barrier inside.

All of it stands in one record of integers, `SYNC`; what a thread writes at every barrier has a cache line to itself.
A worker of ours sleeps in `PyThread_acquire_lock`, the lock of Python itself, which needs no global interpreter lock
and exists on every system. So nothing spins when no kernel runs, and a worker wakes even while some thread is busy in
Python.

To wake takes longer than many a kernel, and very long where the other core is busy. So a kernel is a row of pieces of
work, each dealt out in as many shares as there are threads, and the caller does all shares itself until it sees that
the others are there; only where a piece is longer than waking does it wait for them. The shares do not depend on who
does them, nor does the result. A worker that comes too late is not needed any more and goes back to sleep.

Where other programs hold the cores, threads that meet all the time are slower than one: each waits for the other to get
its core back. So after a kernel that was held up the caller does the next ones alone, and then tries again.

A system may wake a worker on the caller's own core, though others idle (seen on Linux, for minutes); the two would then
take turns at every barrier. So a worker that finds itself there keeps off that core from then on.

OpenMP's threads, see `openmp`, come and go with each kernel; a team that is too small is as good as none.

At the barrier behind each piece every thread writes which piece it has done, and reads that of the others: one line
goes from core to core, where a common counter would go there and back. Who waits gives its core away after a while, for
there may be more threads than cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from gru_xp.threads import MOST_THREADS
from gru_xp_cpu.emit.code import I32, I64, PTR, Code, Pointer, Unit, Value
from gru_xp_cpu.emit.target import DType, Target

__all__ = [
    "FUNCTIONS",
    "LOCKS",
    "MOST",
    "OPENMP",
    "PLACES",
    "SYNC",
    "Crew",
    "build",
    "call_at",
    "change",
    "join_and_lend",
    "meet",
    "offer",
    "offered",
    "serve_and_launch",
    "write",
]

#: places in the record: `joined` is the first piece that the workers take part in, 0 as long as that is open
SYNC = {"kernel": 0, "fields": 1, "parts": 2, "joined": 3, "held_up": 4, "alone": 5, "core": 6, "taken": 7}
#: addresses of functions of Python and of the system, 0 for what the system does not have
FUNCTIONS = ("acquire", "release", "give_way", "core_of", "may_use", "use")
#: of OpenMP's runtime, where its threads work
OPENMP = ("in_parallel", "number", "team")
#: for callers without Python: the address of `offer`, the record of a caller that nobody helps, the number of workers,
#: and addresses of functions of Python's that need no lock
NATIVE = ("offer", "nobody", "workers", "allocate", "free")
SYNC |= {name: 8 + i for i, name in enumerate((*FUNCTIONS, *OPENMP, *NATIVE))}
#: the locks of the workers follow LOCKS, the lines of all threads LINES: the last piece done, and the worker's state
LOCKS, MOST, LINE = 24, MOST_THREADS, 8
LINES = LOCKS + MOST
PLACES = LINES + MOST * LINE
DONE, STATE = 0, 1
#: a worker is asleep, called for a kernel, there, or called and then not needed, but not awake yet
ASLEEP, CALLED, THERE, DISMISSED = range(4)

#: turns of a waiting loop before the core is given away; one turn is a pause of 10 to 140 cycles
PATIENCE = 60
#: turns at one barrier, about a millisecond: more than uneven shares cost, as long as another program keeps a core
LONG = 3000
#: integers that hold a set of cores
CORES = 16
#: after the last piece of any kernel
NEVER = 1 << 62


class Crew:
    """The threads that work on a kernel, as the code of one of them sees it.

    `wait` is not zero where a piece is so long that the caller should rather wait for the others than begin alone.
    """

    def __init__(self, c: Code, wait: Value):
        self.c, self.wait = c, wait
        self.sync = c.ints_at(c.sync)
        self.piece = c.variable(0)
        self.joined = c.variable(c.select(c.parts > 1, c.integer(NEVER), 0))
        with c.when(c.part > 0):
            _until(c, self.sync, lambda: _read(self.sync, SYNC["joined"]) > 0)
            self.joined.set(_read(self.sync, SYNC["joined"]))

    @contextmanager
    def shares(self, meanwhile: Callable[[Value], None] | None = None) -> Iterator[Value]:
        """Write a piece of work: the body does one share, whose number it is given. All threads meet behind it.

        `meanwhile(share)` is what can be done of the next piece before the others' part of this one is there.
        """
        c = self.c
        piece = self.piece.get() + 1
        self.piece.set(piece)
        with (
            c.when(c.part.equals(0)),
            c.when(self.joined.get() > piece),
            c.when(self.sync.load(SYNC["alone"]).equals(0)),
        ):
            self._look(piece)
        together = self.joined.get() <= piece
        alone = c.select(c.part > 0, c.parts, 0)
        first, last = c.select(together, c.part, alone), c.select(together, c.part + 1, c.parts)
        with c.loop(first, last) as share:
            yield share
        with c.when(together & (c.parts > 1)):
            write(self.sync, c.part * LINE + (LINES + DONE), piece)
        if meanwhile is not None:
            with c.loop(first, last) as share:
                meanwhile(share)
        with c.when(together & (c.parts > 1)):
            c.call("meet", c.sync, c.parts, piece)

    def _look(self, piece: Value) -> None:
        """Whether the others are there: from this piece on they take part."""
        c, there = self.c, self.c.variable(1)
        with c.loop(1, c.parts) as other:
            at = other * LINE + (LINES + STATE)
            with c.when(self.wait > 0):
                _until(c, self.sync, lambda: _read(self.sync, at).equals(THERE), barrier=True)
            there.set(c.select(_read(self.sync, at).equals(THERE), there.get(), 0))
        with c.when(there.get() > 0):
            self.joined.set(piece)
            write(self.sync, SYNC["joined"], piece)

    def finish(self) -> None:
        """After the last piece: nobody needs to come any more."""
        c = self.c
        with c.when(c.part.equals(0)), c.when(self.joined.get() > self.piece.get()):
            write(self.sync, SYNC["joined"], c.integer(NEVER))


def meet(unit: Unit) -> None:
    """Emit `meet(sync, parts, piece)`: wait until all have done a piece."""
    with unit.function("meet", "@sync parts piece") as c:
        sync = c.ints_at(c.sync)
        with c.loop(0, c.parts) as other:
            _until(c, sync, lambda: _read(sync, other * LINE + (LINES + DONE)) >= c.piece, barrier=True)


def build(target: Target, kind: str, dtype: DType) -> Unit:
    """The unit "threads"."""
    unit = Unit(target, dtype)
    serve_and_launch(unit)
    offer(unit)
    join_and_lend(unit)
    return unit


def serve_and_launch(unit: Unit) -> None:
    """Emit `serve(sync, part)`, a worker's life, and `launch(sync, kernel, fields, parts, alone)`, which has them work.

    `alone` is how many kernels the caller does alone if this one is held up.
    """
    with unit.function("serve", "@sync part", public=True) as c:
        sync, state = c.ints_at(c.sync), c.part * LINE + (LINES + STATE)
        lock = c.b.inttoptr(sync.load(c.part + LOCKS).ir, PTR)
        cores, failed = c.room_for_integers(CORES), c.variable(1)
        with c.when(sync.load(SYNC["may_use"]) > 0):
            result = call_at(c, sync.load(SYNC["may_use"]), I32, [I32(0), I64(8 * CORES), cores.ir])
            failed.set(Value(c, c.b.sext(result, I64)))
        with c.when(failed.get().equals(0) ^ True), c.loop(0, CORES) as i:  # no core that it could go to, then
            cores.store(0, i)
        with c.loop_while(ASLEEP, lambda found: found >= ASLEEP) as found:
            with c.when(found.get().equals(ASLEEP)):
                call_at(c, sync.load(SYNC["acquire"]), I32, [lock, I32(1)])
                _keep_off(c, sync, cores)
            found.set(change(sync, state, CALLED, THERE))
            with c.when(found.get().equals(CALLED)):
                _run(c, sync, c.part)
                write(sync, state, c.integer(ASLEEP))
                found.set(c.integer(ASLEEP))
            with c.when(found.get().equals(DISMISSED)):  # unless it has been called again meanwhile
                again = change(sync, state, DISMISSED, ASLEEP).equals(CALLED)
                found.set(c.select(again, c.integer(CALLED), ASLEEP))

    with unit.function("launch", LAUNCH, public=True) as c, _launched(c) as (sync, left):
        called = c.select(left > 0, c.integer(1), c.parts)
        with c.loop(1, called) as part:
            state = part * LINE + (LINES + STATE)
            # who was not needed last time has not woken up yet, and need not be woken again
            with c.when(change(sync, state, DISMISSED, CALLED) < DISMISSED):
                write(sync, state, c.integer(CALLED))
                lock = c.b.inttoptr(sync.load(part + LOCKS).ir, PTR)
                call_at(c, sync.load(SYNC["release"]), ir.VoidType(), [lock])
        sync.store(_core(c, sync), SYNC["core"])
        _run(c, sync, c.integer(0))
        with c.loop(1, called) as part:
            state = part * LINE + (LINES + STATE)
            with c.when(change(sync, state, CALLED, DISMISSED) > CALLED):
                _until(c, sync, lambda: _read(sync, state).equals(ASLEEP))


def offer(unit: Unit) -> None:
    """Emit `offer`, as `launch` for callers in native code: who finds the workers taken, or too few, works alone."""
    with unit.function("offer", LAUNCH, public=True) as c:
        sync, free = c.ints_at(c.sync), c.variable(0)
        with c.when(c.parts <= _read(sync, SYNC["workers"]) + 1):
            free.set(change(sync, SYNC["taken"], 0, 1) ^ 1)

        def together() -> None:
            c.call("launch", c.sync, c.kernel, c.fields, c.parts, c.alone)
            write(sync, SYNC["taken"], c.integer(0))

        def alone() -> None:
            nobody = c.b.inttoptr(sync.load(SYNC["nobody"]).ir, PTR)
            call_at(c, c.kernel, ir.VoidType(), [c.fields.ir, I64(0), c.parts.ir, nobody])

        c.either(free.get() > 0, together, alone)


def offered(c: Code, sync: Pointer, kernel: str, fields: Pointer, parts: Value, alone: Value) -> None:
    """Write a call of `offer`."""
    address = c.b.ptrtoint(c.unit.module.get_global(kernel), I64)
    call_at(c, sync.load(SYNC["offer"]), ir.VoidType(), [sync.ir, address, fields.ir, parts.ir, alone.ir])


def join_and_lend(unit: Unit) -> None:
    """Emit `join(sync)`, what each thread of OpenMP's does, and `lend`, as `launch`, which has a team of them do it."""
    with unit.function("join", "@sync", public=True) as c:
        sync = c.ints_at(c.sync)
        number, team = (Value(c, c.b.sext(call_at(c, sync.load(SYNC[name]), I32, []), I64)) for name in OPENMP[1:])
        with c.when(number > 0), c.when(number < sync.load(SYNC["parts"])):
            state = number * LINE + (LINES + STATE)
            write(sync, state, c.integer(THERE))
            _run(c, sync, number)
            write(sync, state, c.integer(ASLEEP))
        with c.when(number.equals(0)):
            with c.when(team < sync.load(SYNC["parts"])):
                sync.store(1, SYNC["alone"])
            _run(c, sync, number)

    with unit.function("lend", LAUNCH, public=True) as c, _launched(c) as (sync, left):
        join = c.unit.module.get_global("join")
        c.either(
            left > 0,
            lambda: _run(c, sync, c.integer(0)),
            lambda: call_at(
                c, sync.load(SYNC["in_parallel"]), ir.VoidType(),
                [c.b.bitcast(join, PTR), c.sync.ir, c.b.trunc(c.parts.ir, I32), I32(0)],
            ),
        )  # fmt: skip


LAUNCH = "@sync kernel fields parts alone"


@contextmanager
def _launched(c: Code) -> Iterator[tuple[Pointer, Value]]:
    """Before and after a kernel: what the threads have to know, and whether it was held up.

    The body has them run it; it is given the record, and how many kernels the caller should do alone, this one first.
    """
    sync = c.ints_at(c.sync)
    left = c.select(c.alone > 0, (sync.load(SYNC["alone"]) - 1).max(0), 0)
    for name, value in (
        ("kernel", c.kernel),
        ("fields", c.fields),
        ("parts", c.parts),
        ("joined", 0),
        ("held_up", 0),
        ("alone", left),
    ):
        sync.store(value, SYNC[name])
    with c.loop(0, c.parts) as part:
        sync.store(0, part * LINE + (LINES + DONE))
    yield sync, left
    with c.when(c.alone > 0), c.when(sync.load(SYNC["held_up"]) > 0):
        sync.store(c.alone + 1, SYNC["alone"])


def _run(c: Code, sync: Pointer, part: Value) -> None:
    """The kernel, as one of its threads."""
    arguments = [c.b.inttoptr(sync.load(SYNC["fields"]).ir, PTR), part.ir, sync.load(SYNC["parts"]).ir, c.sync.ir]
    call_at(c, sync.load(SYNC["kernel"]), ir.VoidType(), arguments)


def _core(c: Code, sync: Pointer) -> Value:
    """The core that this thread runs on, -1 where the system does not tell."""
    core = c.variable(-1)
    with c.when(sync.load(SYNC["core_of"]) > 0):
        core.set(Value(c, c.b.sext(call_at(c, sync.load(SYNC["core_of"]), I32, []), I64)))
    return core.get()


def _keep_off(c: Code, sync: Pointer, cores: Pointer) -> None:
    """Have a worker leave the caller's core for the others of `cores`, if it is there and there are others."""
    core = _core(c, sync)
    with c.when(core >= 0), c.when(core < 64 * CORES), c.when(core.equals(sync.load(SYNC["core"]))):
        others, some = c.room_for_integers(CORES), c.variable(0)
        with c.loop(0, CORES) as i:
            left = cores.load(i) & c.select(i.equals(core / 64), (c.integer(1) << (core % 64)) ^ -1, -1)
            others.store(left, i)
            some.set(some.get() | left)
        with c.when(some.get().equals(0) ^ True):
            call_at(c, sync.load(SYNC["use"]), I32, [I32(0), I64(8 * CORES), others.ir])


# ---- memory that several threads look at ----------------------------------------------------------------------------


def _address(sync: Pointer, place: Any) -> Any:
    c = sync.code
    integer = c.b.ptrtoint(sync.at(place).ir, I64)
    return c.b.inttoptr(integer, I64.as_pointer())  # llvmlite wants to see what it points at


def _read(sync: Pointer, place: Any) -> Value:
    return Value(sync.code, sync.code.b.load_atomic(_address(sync, place), "acquire", 8))


def write(sync: Pointer, place: Any, value: Value) -> None:
    sync.code.b.store_atomic(value.ir, _address(sync, place), "release", 8)


def change(sync: Pointer, place: Any, old: int, new: int) -> Value:
    """Put `new` where `old` stands; what was found there."""
    b = sync.code.b
    both = b.cmpxchg(_address(sync, place), I64(old), I64(new), "acq_rel", "acquire")
    return Value(sync.code, b.extract_value(both, 0))


def _until(c: Code, sync: Pointer, condition: Callable[[], Value], *, barrier: bool = False) -> None:
    """Wait until something is so."""
    with c.loop_while(0, lambda _: condition().equals(0)) as turns:
        turn = turns.get()
        turns.set(turn + 1)
        _pause(c)
        give_way = sync.load(SYNC["give_way"])
        with c.when(turn > PATIENCE), c.when(give_way > 0):
            call_at(c, give_way, I32, [])
        if barrier:
            with c.when(turn.equals(LONG)):
                sync.store(1, SYNC["held_up"])


def _pause(c: Code) -> None:
    if c.unit.target.x86:
        c.b.call(c.intrinsic("llvm.x86.sse2.pause", ir.FunctionType(ir.VoidType(), [])), [])
    else:
        c.b.call(c.intrinsic("llvm.aarch64.hint", ir.FunctionType(ir.VoidType(), [I32])), [I32(1)])


def call_at(c: Code, address: Value, returns: Any, arguments: list[Any]) -> Any:
    """Call a C function by its address."""
    kind = ir.FunctionType(returns, [a.type for a in arguments])
    return c.b.call(c.b.inttoptr(address.ir, kind.as_pointer()), arguments)
