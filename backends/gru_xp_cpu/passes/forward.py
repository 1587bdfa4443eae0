"""The forward pass of one layer and direction, for one of the threads that work on it together.

The batch and the hidden units are dealt out to the threads, `unit_parts` of them side by side and the rest over the
batch. Each projects what it will need itself. Threads that share rows meet after each step, others after each block of
time; time goes in blocks, so that the gates' arguments `gi` stay in the caches between their product and their use.

The state is kept twice in the blocked format, one to read and one to write, with zeros beyond H.

Threads that share rows need each other's units in the next step. While they wait for these they begin with their own:
the first sums of a step go over a thread's own units before all meet, over the others' after it.
"""

from __future__ import annotations

from typing import Any

from gru_xp_cpu.emit.code import Code, Pointer, Unit, Value
from gru_xp_cpu.threads.barrier import Crew

from .few_rows import few_rows, forward_of_few_rows
from .packing import pack_gates
from .record import Record
from .shapes import gates_shapes
from .tiling import Grid, Splits, Tile, cover, product, runs, share, split

__all__ = ["forward"]

#: rows that one pass over the input's panels serves
CHUNK = 48
#: pieces of work that the weights are packed in
PIECES = 4


def forward(unit: Unit) -> None:
    """Emit `forward(fields, part, parts, sync)`."""
    with unit.function("forward", "@fields part parts @sync", public=True) as c:
        a = Record(c, c.fields, "forward")
        few = few_rows(c, a) & (a.has_W_ih > 0)
        c.either(few, lambda: forward_of_few_rows(c, a), lambda: _Forward(c, a).write())


class _Forward:
    def __init__(self, c: Code, a: Record):
        self.c, self.a, self.V = c, a, c.unit.lanes
        self.shapes = gates_shapes(c.unit.target.registers)
        self.sums = c.room(max(3 * groups * rows for rows, groups in enumerate(self.shapes.groups, 1)))
        self.J = (a.H + (self.V - 1)) / self.V
        self.grid = Grid(c, a.N, self.J, c.parts, a.unit_parts)
        self.tiles = Splits(c, self.shapes, self.grid, c.parts)
        self.crew = Crew(c, a.wait)
        self.sharing = a.unit_parts > 1

    def write(self) -> None:
        c, a = self.c, self.a
        with c.when(a.first.equals(0)):
            self.prepare()
        with c.loop_while(a.first, lambda s: s < a.last) as block:
            s0 = block.get()
            s1 = (s0 + a.steps).min(a.last)
            low = c.select(a.reverse > 0, a.T - s1, s0)
            self.project(low, s1 - s0)
            stride = c.select(self.sharing, c.integer(1), s1 - s0)
            with c.loop(s0, s1, stride) as first:
                following = first + stride
                with self.crew.shares(lambda part: self.begin(part, following)) as part, c.loop(first, following) as s:
                    self.step(part, s, low, s1 - s0)
            block.set(s1)
        with c.when(a.last.equals(a.T)), self.crew.shares() as part:
            n0, n1, j0, j1 = self.grid.of(part)
            state, h_n = self.state(a.T).at(n0 * self.V), a.h_n.at(n0 * a.H)
            c.call("from_blocked", state, a.N * self.V, n1 - n0, a.H, h_n, a.H, j0, j1)
        self.crew.finish()

    def state(self, s: Value) -> Pointer:
        """What step s reads."""
        pointer: Pointer = self.a.state.at((s & 1) * (self.J * self.a.N * self.V))
        return pointer

    def time(self, s: Value) -> Value:
        return self.c.select(self.a.reverse > 0, self.a.T - 1 - s, s)

    def prepare(self) -> None:
        """Pack the weights, and take up the first state."""
        c, a = self.c, self.a
        # packed in pieces, so that those who are still waking up can take part sooner
        with c.when(a.has_W_ih > 0), c.loop(0, PIECES) as piece, self.crew.shares() as part:
            pack_gates(c, a, *self.grid.own_blocks(part, piece, PIECES))
        with self.crew.shares(lambda part: self.begin(part, c.integer(0))) as part:
            n0, n1, j0, j1 = self.grid.of(part)
            state = self.state(c.integer(0)).at(n0 * self.V)
            c.call("to_blocked", a.h0.at(n0 * a.H), a.H, n1 - n0, a.H, state, a.N * self.V, j0, j1)
            self.cut(part, c.integer(0))

    def cut(self, part: Value, s: Value) -> None:
        """Zero the state that step s will read, in the rows that are reset before it."""
        c, a = self.c, self.a
        with c.when(a.has_cut > 0), c.when(s < a.T):
            n0, n1, j0, j1 = self.grid.of(part)
            with c.loop(n0, n1) as m, c.when(c.bytes_at(a.cut).load(self.time(s) * a.N + m) > 0):
                c.call("zero_block_rows", self.state(s).at(m * self.V), a.N * self.V, 1, j0, j1)

    def project(self, low: Value, steps: Value) -> None:
        """gi = x @ W_ih.T + biases of a block of time; z's part is infinite where a row is padding."""
        c, a = self.c, self.a
        M, clean = steps * a.N, a.has_valid > 0
        source = c.select_pointer(clean, a.x_clean, a.x)
        with c.when(clean), self.crew.shares() as part:
            m0, m1 = share(M, part, c.parts)
            first = low * a.N + m0
            valid = c.bytes_at(a.valid).at(first)
            c.call("copy_valid", a.x.at(first * a.I), a.I, m1 - m0, a.I, valid, a.x_clean.at(first * a.I), a.I)
        stride = c.select(self.sharing, (CHUNK / a.N.max(1)).max(1).min(steps), steps)
        with c.loop(0, steps, stride) as first, self.crew.shares() as part:
            self.project_share(part, source, low, first, (first + stride).min(steps), M)

    def project_share(self, part: Value, source: Pointer, low: Value, first: Value, last: Value, M: Value) -> None:
        """The rows and units of a share in some steps of a block of M rows that begins at time `low`."""
        c, a, V = self.c, self.a, self.V
        n0, n1, j0, j1 = self.grid.of(part)

        def rows(begin: Value, count: Value) -> None:
            def tile(at: Tile) -> None:
                x = source.at((low * a.N + begin + at.row) * a.I)
                gi = a.gi.at((at.group * M + begin + at.row) * (3 * V))  # what the sums of one group are
                start = a.start_gi.at(at.group * (3 * V))
                product(c, "gates", self.shapes, at, (x, a.I, V), a.I, a.panels_ih, start, gi)

            cover(c, self.shapes, split(c, self.shapes, count, j1 - j0, limit=1), j0, tile)
            with (
                c.when(a.has_valid > 0),
                c.loop(begin, begin + count) as m,
                c.when(c.bytes_at(a.valid).load(low * a.N + m).equals(0)),
                c.loop(j0, j1) as j,
            ):
                a.gi.put(c.constant(float("inf")), (j * M + m) * (3 * V) + V)

        runs(c, a.N, n0, n1, first, last, CHUNK, rows)

    def begin(self, part: Value, s: Value) -> None:
        """The first sums of step s over the share's own units, where threads share rows."""
        c, a, V = self.c, self.a, self.V
        n0, _, j0, j1 = self.grid.of(part)

        def tile(here: Tile) -> None:
            span = j0, (j1 * V).min(a.H) - j0 * V
            self.recurrent(s, n0 + here.row, here, a.start_gh.at(here.group * (3 * V)), self.begun(part, here), 0, span)

        with c.when(self.sharing), c.when(s < a.T):
            cover(c, self.shapes, self.tiles.of(part), j0, tile, backwards=s & 1, only_first=True)

    def go_on(self, part: Value, s: Value, here: Tile, sums: Pointer) -> None:
        """The rest of what `begin` began, over the units before the share's own and behind them."""
        c, a, V = self.c, self.a, self.V
        n0, _, j0, j1 = self.grid.of(part)
        begun, n, row = self.begun(part, here), n0 + here.row, here.groups * (3 * V)
        with c.when(j0 > 0):
            self.recurrent(s, n, here, begun, sums, row, (c.integer(0), j0 * V))
        with c.when(j1 < self.J):
            self.recurrent(s, n, here, c.select_pointer(j0 > 0, sums, begun), sums, row, (j1, a.H - j1 * V))

    def begun(self, part: Value, here: Tile) -> Pointer:
        """Where the first sums of a tile are kept."""
        pointer: Pointer = self.a.begun.at((part * self.a.N + here.row) * (max(self.shapes.groups) * 3 * self.V))
        return pointer

    def recurrent(
        self,
        s: Value,
        n: Value,
        here: Tile,
        first: Pointer,
        sums: Pointer,
        first_row: Any = 0,
        span: tuple[Value, Value] | None = None,
    ) -> None:
        """sums = first + h @ W_hh.T for a tile whose rows begin at n."""
        c, a, V = self.c, self.a, self.V
        left = self.state(s).at(n * V), V, a.N * V
        product(c, "gates", self.shapes, here, left, a.H, a.panels_hh, first, sums, first_row=first_row, span=span)

    def step(self, part: Value, s: Value, low: Value, steps: Value) -> None:
        """One step for the rows and units of a share."""
        c, a, V = self.c, self.a, self.V
        n0, n1, j0, j1 = self.grid.of(part)
        t, M, between = self.time(s), steps * a.N, a.N * V
        h, h1 = self.state(s), self.state(s + 1)

        def tile(here: Tile) -> None:
            n, j = n0 + here.row, here.group
            c.either(
                self.sharing & here.before.equals(0),
                lambda: self.go_on(part, s, here, self.sums),
                lambda: self.recurrent(s, n, here, a.start_gh.at(j * (3 * V)), self.sums),
            )
            row, place = t * a.N + n, j * between + n * V
            at = row * a.H + j * V
            gi = a.gi.at((j * M + (t - low) * a.N + n) * (3 * V))
            tape = (array.at(at) for array in (a.h_prev, a.r, a.z, a.n, a.u))
            c.call(
                "gates_forward", self.sums, here.rows, here.groups, gi, 3 * V, M * (3 * V), h.at(place), h1.at(place),
                between, a.H - j * V, a.what, a.y.at(at), a.H, *tape, a.H,
            )  # fmt: skip

        cover(c, self.shapes, self.tiles.of(part), j0, tile, backwards=s & 1)
        self.cut(part, s + 1)
        with c.when(a.has_valid > 0):  # y = 0 where a row is padding
            first, row = (j0 * V).min(a.H), t * a.N + n0
            y, valid = a.y.at(row * a.H + first), c.bytes_at(a.valid).at(row)
            c.call("copy_valid", y, a.H, n1 - n0, (j1 * V).min(a.H) - first, valid, y, a.H)
