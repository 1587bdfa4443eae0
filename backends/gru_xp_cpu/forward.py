"""The forward pass of one layer and direction, for one of the threads that work on it together.

The batch and the hidden units are dealt out to the threads, `unit_parts` of them side by side and the rest over the
batch. Each projects what it will need itself, so that threads meet only where they share rows: once in a step. Time
goes in blocks, so that the gates' arguments `gi` stay in the caches between their product and their use.

The state is kept twice in the blocked format, one to read and one to write, with zeros beyond H.
"""

from __future__ import annotations

from collections.abc import Callable

from .code import Code, Pointer, Record, Unit, Value
from .cover import chunks, cover, share
from .fields import FORWARD, PLACES_FORWARD, SIZES
from .tiles import gates_shapes

__all__ = ["forward"]

#: rows that one pass over the input's panels serves
CHUNK = 96


def forward(unit: Unit) -> None:
    """Emit `forward(fields, part, parts, sync)`."""
    with unit.function("forward", "@fields part parts @sync", public=True) as c:
        _Forward(c, c.record(c.fields, " ".join((SIZES, FORWARD, PLACES_FORWARD)))).write()


class _Forward:
    def __init__(self, c: Code, a: Record):
        self.c, self.a, self.V = c, a, c.unit.lanes
        self.shapes = gates_shapes(c.unit)
        self.sums = c.room(max(3 * groups * rows for rows, groups in enumerate(self.shapes.groups, 1)))
        self.met = c.variable(0)
        self.J = (a.H + (self.V - 1)) / self.V
        self.row_parts = c.parts / a.unit_parts
        self.n0, self.n1 = share(a.N, c.part / a.unit_parts, self.row_parts)
        self.j0, self.j1 = share(self.J, c.part % a.unit_parts, a.unit_parts)

    def write(self) -> None:
        c, a = self.c, self.a
        with c.when(a.first.equals(0)):
            self.prepare()
        with c.loop_while(a.first, lambda s: s < a.last) as block:
            s0 = block.get()
            s1 = (s0 + a.steps).min(a.last)
            low = c.select(a.reverse > 0, a.T - s1, s0)
            self.project(low, s1 - s0)
            with c.loop(s0, s1) as s:
                self.step(s, low, s1 - s0)
            self.clear_padding(low, s1 - s0)
            block.set(s1)
        with c.when(a.last.equals(a.T)):
            state = self.state(a.T).at(self.n0 * self.V)
            c.call(
                "from_blocked",
                state,
                a.N * self.V,
                self.n1 - self.n0,
                a.H,
                a.h_n.at(self.n0 * a.H),
                a.H,
                self.j0,
                self.j1,
            )

    def meet(self, condition: Value) -> None:
        with self.c.when(condition):
            self.met.set(self.met.get() + 1)
            self.c.call("meet", self.c.sync, self.c.part, self.c.parts, self.met.get())

    def state(self, s: Value) -> Pointer:
        """What step s reads."""
        pointer: Pointer = self.a.state.at((s & 1) * (self.J * self.a.N * self.V))
        return pointer

    def time(self, s: Value) -> Value:
        return self.c.select(self.a.reverse > 0, self.a.T - 1 - s, s)

    def prepare(self) -> None:
        """Pack the weights, and take up the first state."""
        c, a = self.c, self.a
        with c.when(a.pack > 0):
            j0, j1 = share(self.J, c.part, c.parts)
            c.call("pack_panels", a.W_ih, a.H, a.I, a.panels_ih, j0, j1)
            c.call("pack_panels", a.W_hh, a.H, a.H, a.panels_hh, j0, j1)
            c.call("pack_bias", a.has_bias, a.b_ih, a.b_hh, a.H, a.start_gi, a.start_gh, j0, j1)
        n, state = self.n0, self.state(c.integer(0)).at(self.n0 * self.V)
        c.call("to_blocked", a.h0.at(n * a.H), a.H, self.n1 - n, a.H, state, a.N * self.V, self.j0, self.j1)
        self.cut(c.integer(0))
        self.meet(c.parts > 1)

    def cut(self, s: Value) -> None:
        """Zero the state that step s will read, in the rows that are reset before it."""
        c, a = self.c, self.a
        with (
            c.when(a.has_cut > 0),
            c.when(s < a.T),
            c.loop(self.n0, self.n1) as m,
            c.when(c.bytes_at(a.cut).load(self.time(s) * a.N + m) > 0),
        ):
            c.call("zero_block_rows", self.state(s).at(m * self.V), a.N * self.V, 1, self.j0, self.j1)

    def project(self, low: Value, steps: Value) -> None:
        """gi = x @ W_ih.T + biases for this thread's rows and units; z's part is infinite where a row is padding."""
        c, a, V = self.c, self.a, self.V
        M = steps * a.N
        clean = a.has_valid > 0
        source = c.select_pointer(clean, a.x_clean, a.x)
        with c.when(clean):
            m0, m1 = share(M, c.part, c.parts)
            first = low * a.N + m0
            valid = c.bytes_at(a.valid).at(first)
            c.call("copy_valid", a.x.at(first * a.I), a.I, m1 - m0, a.I, valid, a.x_clean.at(first * a.I), a.I)
            self.meet(c.parts > 1)

        def rows(first: Value, count: Value) -> None:
            def tile(m: Value, take: Value, j: Value, groups: Value, index: Value) -> None:
                at = source.at((low * a.N + first + m) * a.I)
                gi = a.gi.at((j * M + first + m) * (3 * V))  # the sums of one group are what gi is
                begin, panels = a.start_gi.at(j * (3 * V)), a.I * (3 * V)
                c.call_from("gates", index, at, a.I, V, a.I, a.panels_ih.at(j * panels), panels, begin, gi)

            cover(c, self.shapes, count, self.j0, self.j1, tile, limit=1)
            with (
                c.when(a.has_valid > 0),
                c.loop(first, first + count) as m,
                c.when(c.bytes_at(a.valid).load(low * a.N + m).equals(0)),
                c.loop(self.j0, self.j1) as j,
            ):
                a.gi.put(c.constant(float("inf")), (j * M + m) * (3 * V) + V)

        self.runs(steps, rows)

    def runs(self, steps: Value, body: Callable[[Value, Value], None]) -> None:
        """body(row, rows) for all rows of a block of time that are this thread's."""
        c, a = self.c, self.a
        own = self.n1 - self.n0
        whole = own.equals(a.N)
        count, length = c.select(whole, c.integer(1), steps), c.select(whole, steps * a.N, own)
        with c.loop(0, count) as run:
            begin = run * a.N + self.n0
            chunks(c, length, CHUNK, lambda m, rows: body(begin + m, rows))

    def step(self, s: Value, low: Value, steps: Value) -> None:
        """One step for this thread's rows and units."""
        c, a, V = self.c, self.a, self.V
        t, M, between = self.time(s), steps * a.N, a.N * V
        h, h1 = self.state(s), self.state(s + 1)

        def tile(m: Value, take: Value, j: Value, groups: Value, index: Value) -> None:
            n = self.n0 + m
            block, panels = j * (3 * V), a.H * (3 * V)
            c.call_from(
                "gates",
                index,
                h.at(n * V),
                V,
                between,
                a.H,
                a.panels_hh.at(j * panels),
                panels,
                a.start_gh.at(block),
                self.sums,
            )
            row, place = t * a.N + n, j * between + n * V
            at = row * a.H + j * V
            gi = a.gi.at((j * M + (t - low) * a.N + n) * (3 * V))
            tape = (array.at(at) for array in (a.h_prev, a.r, a.z, a.n, a.u))
            y = a.y.at(row * a.H + j * V)
            c.call(
                "gates_forward", self.sums, take, groups, gi, 3 * V, M * (3 * V), h.at(place), h1.at(place), between,
                a.H - j * V, a.what, y, a.H, *tape, a.H,
            )  # fmt: skip

        cover(c, self.shapes, self.n1 - self.n0, self.j0, self.j1, tile, backwards=s & 1)
        self.cut(s + 1)
        self.meet(a.unit_parts > 1)

    def clear_padding(self, low: Value, steps: Value) -> None:
        """y = 0 where a row is padding."""
        c, a = self.c, self.a
        first = (self.j0 * self.V).min(a.H)
        columns = (self.j1 * self.V).min(a.H) - first
        with c.when(a.has_valid > 0), c.loop(low, low + steps) as t:
            m = t * a.N + self.n0
            y, valid = a.y.at(m * a.H + first), c.bytes_at(a.valid).at(m)
            c.call("copy_valid", y, a.H, self.n1 - self.n0, columns, valid, y, a.H)
