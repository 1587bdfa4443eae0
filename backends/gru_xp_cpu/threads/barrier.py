"""How threads share a kernel: a sequence of parallel sections, with a barrier behind each.

A section is dealt out in as many shares as there are threads. Each thread begins with the share of its own number; when
that is done it does those that nobody has begun. So a worker that is not awake yet, or that another program keeps from
its core, delays nobody; only a share that was begun has to be waited for. The shares do not depend on who does them,
nor does the result.

All shares of a section are done before the next one begins. Who waits for one reads the number of its last section
again and again for some microseconds, longer than uneven shares cost, and then blocks in the system: it gives its core
to those that can use it, perhaps to the very thread that it waits for.

Threads that have done a share look whether somebody blocks on it. That is not synchronised, for it would cost at every
barrier; but whoever blocks or leaves looks again, synchronised, so that no sleeper is forgotten.

Sections are numbered on from kernel to kernel. A worker that comes to a section late finds its share done and goes on,
even when the kernel is over: then it has nothing more to do with what the kernel's caller may have freed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gru_xp_cpu.emit.code import Code, Integers, Value
from gru_xp_cpu.emit.function import function

from .shared import CLAIM, DONE, STATE, SYNC, WAITERS, add, change, line, read, write
from .system import block, pause, wake

__all__ = ["INSIDE", "Sections"]

#: the state of a worker that has read what a kernel's caller gave it, see `launching`
INSIDE = 3
#: pauses, of 20 to 60 ns each, between looks for a share that nobody has begun; a power of two
LOOK = 16
#: pauses before a thread blocks: about as long as it takes to be woken
SPIN = 1024


class Sections:
    """The sections of a kernel, as one of its threads sees them; to be made after the kernel's arguments are read.

    A thread that computes alone, `parts` being 1 or its record saying `solo`, does all shares one after the other.
    """

    def __init__(self, c: Code, part: Value, parts: Value, sync: Integers):
        self.c, self.part, self.parts, self.sync = c, part, parts, sync
        self._shared, self._number = c.variable(0), c.variable(0)
        with c.when(parts > 1), c.when(sync.load(SYNC["solo"]).equals(0)):
            self._shared.set(1)
            self._number.set(sync.load(SYNC["sections"]))
            with c.when(part > 0):
                write(sync, line(part, STATE), INSIDE)

    @contextmanager
    def section(self, meanwhile: Callable[[Value], None] | None = None) -> Iterator[Value]:
        """Write a section: the body does one share, whose number it is given.

        `meanwhile(share)` is what can be done of the share's part of the next section before the others' shares of
        this one are there.
        """
        c, sync, number = self.c, self.sync, self._number.get() + 1
        self._number.set(number)
        shared, first = self._shared.get() > 0, c.variable(0)
        with c.when(shared):
            first.set(_begin(c, sync, self.parts, self.part, number))
        with c.loop_while(first.get(), lambda share: share >= 0) as at:
            share = at.get()
            yield share
            with c.when(shared):
                if meanwhile is None:
                    _leave(sync, share, number)
                write(sync, line(share, DONE), number)
                with c.when(read(sync, line(share, WAITERS)) > 0):
                    _wake_waiters(c, sync, share)
            if meanwhile is not None:
                meanwhile(share)
                with c.when(shared):
                    _leave(sync, share, number)
            c.either(
                shared,
                lambda: at.set(_wait(c, sync, self.parts, self.part, number)),
                lambda: at.set(c.select(share + 1 < self.parts, share + 1, -1)),
            )

    def finish(self) -> None:
        """After the last section."""
        c, sync = self.c, self.sync
        with c.when(self._shared.get() > 0):
            _wake_all(c, sync, self.parts, self._number.get())
            with c.when(self.part.equals(0)):
                sync.store(self._number.get(), SYNC["last"])
                _wait_until_left(c, sync, self.parts)


def _claim(sync: Integers, share: Value, number: Value) -> Value:
    """Whether this thread is the first to begin a share; before that its part of the last section has to be over.

    Twice the number of a section says that a share of it is over, and one more that it has been begun.
    """
    before = (number - 1) << 1
    return change(sync, line(share, CLAIM), before, (number << 1) + 1).equals(before)


def _leave(sync: Integers, share: Value, number: Value) -> None:
    """Say that this thread has no more to do with a share in this section."""
    write(sync, line(share, CLAIM), number << 1)


@function
def _begin(c: Code, sync: Integers, parts: Value, part: Value, number: Value) -> Value:
    """The share that this thread has to do first in a section, -1 where there is none."""
    found = c.variable(part)
    with c.when(_claim(sync, part, number) ^ True):
        found.set(_wait(c, sync, parts, part, number))
    return found.get()


@function
def _wait(c: Code, sync: Integers, parts: Value, part: Value, number: Value) -> Value:
    """Wait until all shares of a section are done: -1. Or find one that nobody has begun, which this thread now has."""
    found, turn = c.variable(-1), c.variable(0)

    def share_of(i: Value) -> Value:
        rotated = part + i
        return c.select(rotated >= parts, rotated - parts, rotated)

    with c.loop_while(0, lambda i: (i < parts) & (found.get() < 0)) as at:
        share = share_of(at.get())

        def wait_a_turn() -> None:
            turn.set(turn.get() + 1)
            pause(c)
            with (
                c.when((turn.get() & (LOOK - 1)).equals(0)),
                c.loop_while(at.get(), lambda i: (i < parts) & (found.get() < 0)) as look,
            ):
                other = share_of(look.get())
                with (
                    c.when(read(sync, line(other, CLAIM)).equals((number - 1) << 1)),
                    c.when(_claim(sync, other, number)),
                ):
                    found.set(other)
                look.set(look.get() + 1)
            with c.when(turn.get() >= SPIN), c.when(found.get() < 0):
                _block(c, sync, parts, share, number)

        c.either(read(sync, line(share, DONE)) >= number, lambda: at.set(at.get() + 1), wait_a_turn)
    return found.get()


@function
def _block(c: Code, sync: Integers, parts: Value, share: Value, number: Value) -> None:
    """Give the core away until a share is done."""
    add(sync, line(share, WAITERS), 1)
    _wake_all(c, sync, parts, number)
    done = read(sync, line(share, DONE))
    with c.when(done < number):
        add(sync, SYNC["blocked"], 1)
        block(c, sync, line(share, DONE), done)
    add(sync, line(share, WAITERS), -1)


@function
def _wake_waiters(c: Code, sync: Integers, share: Value) -> None:
    """Wake those who block on a share."""
    wake(c, sync, line(share, DONE))


@function
def _wake_all(c: Code, sync: Integers, parts: Value, number: Value) -> None:
    """Wake those who block on any share that is done, whoever has done it."""
    c.b.fence("seq_cst")
    with (
        c.loop(0, parts) as share,
        c.when(read(sync, line(share, WAITERS)) > 0),
        c.when(read(sync, line(share, DONE)) >= number),
    ):
        _wake_waiters(c, sync, share)


@function
def _wait_until_left(c: Code, sync: Integers, parts: Value) -> None:
    """Wait until nobody is at work on any share: on what can be done of a section that another kernel begins with."""
    with (
        c.loop(0, parts) as share,
        c.loop_while(0, lambda _: (read(sync, line(share, CLAIM)) & 1) > 0) as turn,
    ):
        turn.set(turn.get() + 1)
        pause(c)
        with c.when(turn.get() >= SPIN):
            block(c, sync, line(share, CLAIM), read(sync, line(share, CLAIM)), milliseconds=1)
