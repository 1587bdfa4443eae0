"""The forward pass of one layer and direction, as one of its threads executes it.

The batch and the hidden units are partitioned over the threads, `unit_parts` of them side by side and the rest over the
batch. Each thread projects the inputs that it needs. Threads that share rows have a barrier after each step, others
after each block of time; time goes in blocks, so that the gates' arguments `gi` stay in the caches between their
product and their use.

The state is kept twice in column blocks, one to read and one to write, with zeros beyond H.

Threads that share rows need each other's units in the next step. While they wait for these they begin with their own:
the first sums of a step go over a thread's own units before the barrier, over the others' after it.
"""

from __future__ import annotations

from gru_xp_cpu.emit.code import Code, Integer, Integers, Reals, Value
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.threads.barrier import Sections

from .few_rows import few_rows, forward_of_few_rows
from .fields import PACKED
from .packing import copy, copy_valid, from_blocked, pack_gates, to_blocked, zero_block_rows
from .pointwise import gates_forward
from .record import ForwardRecord, tape
from .shapes import CHUNK, Shapes, gates_shapes
from .tiling import Partition, Tile, Tilings, each_tile, multiply, runs, share, tiling

__all__ = ["CHUNK", "Forward", "forward"]

#: pieces of work that the weights are packed in
PIECES = 4


@function
def forward(c: Code, fields: Integers, part: Value, parts: Value, sync: Integers) -> None:
    """The shares of one thread."""
    a, sections = ForwardRecord(c, fields), Sections(c, part, parts, sync)
    few = few_rows(a) & (a.what & PACKED).equals(0)
    c.either(few, lambda: forward_of_few_rows(c, a, sections), lambda: Forward(c, a, sections).write())


class Forward:
    """All phases of a pass; `integers` has another product."""

    def __init__(self, c: Code, a: ForwardRecord, sections: Sections):
        self.c, self.a, self.sections, self.V = c, a, sections, c.module.lanes
        self.shapes = self.tiles(c.module.target.registers)
        self.sums = c.stack_vectors(self.shapes.vectors)
        self.J = (a.H + (self.V - 1)) // self.V
        self.partition = Partition(c, a.N, self.J, sections.parts, a.unit_parts)
        self.tilings = Tilings(c, self.shapes, self.partition, sections.parts)
        self.sharing = a.unit_parts > 1

    def tiles(self, registers: int) -> Shapes:
        """Their shapes."""
        return gates_shapes(registers)

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
                with (
                    self.sections.section(lambda part: self.begin(part, following)) as part,
                    c.loop(first, following) as s,
                ):
                    self.step(part, s, low, s1 - s0)
            block.set(s1)
        with c.when(a.last.equals(a.T)), self.sections.section() as part:
            n0, n1, j0, j1 = self.partition.of(part)
            state, h_n = self.state(a.T).at(n0 * self.V), a.h_n.at(n0 * a.H)
            from_blocked(c, state, a.N * self.V, n1 - n0, a.H, h_n, a.H, j0, j1)
        self.sections.finish()

    def state(self, s: Value) -> Reals:
        """What step s reads."""
        return self.a.state.at((s & 1) * (self.J * self.a.N * self.V))

    def time(self, s: Value) -> Value:
        return self.c.select(self.a.reverse > 0, self.a.T - 1 - s, s)

    def prepare(self) -> None:
        """Pack the weights, and copy the first state."""
        c, a = self.c, self.a
        # packed in pieces, so that threads that are still waking up can join sooner
        with c.when((a.what & PACKED).equals(0)), c.loop(0, PIECES) as piece, self.sections.section() as part:
            pack_gates(c, a, *self.partition.own_blocks(part, piece, PIECES))
        with self.sections.section(lambda part: self.begin(part, c.integer(0))) as part:
            self.copy_h0(part)

    def copy_h0(self, part: Value) -> None:
        """The first state of a share."""
        c, a = self.c, self.a
        n0, n1, j0, j1 = self.partition.of(part)
        state = self.state(c.integer(0)).at(n0 * self.V)
        to_blocked(c, a.h0.at(n0 * a.H), a.H, n1 - n0, a.H, state, a.N * self.V, j0, j1)
        self.cut(part, c.integer(0))

    def cut(self, part: Value, s: Value) -> None:
        """Zero the state that step s will read, in the rows that are reset before it."""
        c, a = self.c, self.a
        with c.when(a.has_cut > 0), c.when(s < a.T):
            n0, n1, j0, j1 = self.partition.of(part)
            with c.loop(n0, n1) as m, c.when(a.cut.load(self.time(s) * a.N + m) > 0):
                zero_block_rows(c, self.state(s).at(m * self.V), a.N * self.V, c.integer(1), j0, j1)

    def project(self, low: Value, steps: Value) -> None:
        """gi = x @ W_ih.T + biases of a block of time; z's part is infinite where a row is padding."""
        c, a = self.c, self.a
        M, padded = steps * a.N, a.has_valid > 0
        source = c.select_pointer(padded, a.x_clean, a.x)
        with c.when(padded), self.sections.section() as part:
            m0, m1 = share(M, part, self.sections.parts)
            first = low * a.N + m0
            valid = a.valid.at(first)
            copy_valid(c, a.x.at(first * a.I), a.I, m1 - m0, a.I, valid, a.x_clean.at(first * a.I), a.I)
        self.project_shares(source, low, steps, M)

    def project_shares(self, source: Reals, low: Value, steps: Value, M: Value) -> None:
        """The products of `project`, some steps at a time where threads share rows."""
        c, a = self.c, self.a
        stride = c.select(self.sharing, (CHUNK // a.N.max(1)).max(1).min(steps), steps)
        with c.loop(0, steps, stride) as first, self.sections.section() as part:
            self.project_share(part, source, low, first, (first + stride).min(steps), M)

    def project_share(self, part: Value, source: Reals, low: Value, first: Value, last: Value, M: Value) -> None:
        """The rows and units of a share in some steps of a block of M rows that begins at time `low`."""
        c, a, V = self.c, self.a, self.V
        n0, n1, j0, j1 = self.partition.of(part)

        def rows(begin: Value, count: Value) -> None:
            x = source.at((low * a.N + begin) * a.I)
            if c.module.narrow:
                wide = a.wide_x.at(part * (CHUNK * a.I))
                copy(c, x, count * a.I, wide)
                x = wide

            def tile(at: Tile) -> None:
                gi = a.gi.at((at.group * M + begin + at.row) * (3 * V))  # what the sums of one group are
                start = a.start_gi.at(at.group * (3 * V))
                multiply(c, self.shapes, at, (x.at(at.row * a.I), a.I, V), a.I, a.panels_ih, start, gi)

            each_tile(c, self.shapes, tiling(c, self.shapes, count, j1 - j0, limit=1), j0, tile)
            self.hold_padding(low, begin, count, M, j0, j1)

        runs(c, a.N, n0, n1, first, last, CHUNK, rows)

    def hold_padding(self, low: Value, begin: Value, count: Value, M: Value, j0: Value, j1: Value) -> None:
        """z's part of gi is infinite in the rows that are padding."""
        c, a, V = self.c, self.a, self.V
        with (
            c.when(a.has_valid > 0),
            c.loop(begin, begin + count) as m,
            c.when(a.valid.load(low * a.N + m).equals(0)),
            c.loop(j0, j1) as j,
        ):
            a.gi.store_vector(c.constant(float("inf")), (j * M + m) * (3 * V) + V)

    def begin(self, part: Value, s: Value) -> None:
        """The first sums of step s over the share's own units, where threads share rows."""
        c, a, V = self.c, self.a, self.V
        n0, _, j0, j1 = self.partition.of(part)

        def tile(here: Tile) -> None:
            span = j0, (j1 * V).min(a.H) - j0 * V
            self.recurrent(s, n0 + here.row, here, a.start_gh.at(here.group * (3 * V)), self.begun(part, here), 0, span)

        with c.when(self.sharing), c.when(s < a.T):
            each_tile(c, self.shapes, self.tilings.of(part), j0, tile, backwards=s & 1, only_first=True)

    def continue_sums(self, part: Value, s: Value, here: Tile, sums: Reals) -> None:
        """The rest of what `begin` began, over the units before the share's own and behind them."""
        c, a, V = self.c, self.a, self.V
        n0, _, j0, j1 = self.partition.of(part)
        begun, n, row = self.begun(part, here), n0 + here.row, here.groups * (3 * V)
        with c.when(j0 > 0):
            self.recurrent(s, n, here, begun, sums, row, (c.integer(0), j0 * V))
        with c.when(j1 < self.J):
            self.recurrent(s, n, here, c.select_pointer(j0 > 0, sums, begun), sums, row, (j1, a.H - j1 * V))

    def begun(self, part: Value, here: Tile) -> Reals:
        """Where the first sums of a tile are kept."""
        return self.a.begun.at((part * self.a.N + here.row) * (max(self.shapes.groups) * 3 * self.V))

    def recurrent(
        self, s: Value, n: Value, here: Tile, first: Reals, sums: Reals, first_row: Integer = 0,
        span: tuple[Value, Value] | None = None,
    ) -> None:  # fmt: skip
        """sums = first + h @ W_hh.T for a tile whose rows begin at n."""
        c, a, V = self.c, self.a, self.V
        left = self.state(s).at(n * V), V, a.N * V
        multiply(c, self.shapes, here, left, a.H, a.panels_hh, first, sums, first_row=first_row, span=span)

    def step(self, part: Value, s: Value, low: Value, steps: Value) -> None:
        """One step for the rows and units of a share."""
        c, a, V = self.c, self.a, self.V
        n0, n1, j0, j1 = self.partition.of(part)
        t, M, between = self.time(s), steps * a.N, a.N * V
        h, h1 = self.state(s), self.state(s + 1)

        def tile(here: Tile) -> None:
            n, j = n0 + here.row, here.group
            c.either(
                self.sharing & here.position.equals(0),
                lambda: self.continue_sums(part, s, here, self.sums),
                lambda: self.recurrent(s, n, here, a.start_gh.at(j * (3 * V)), self.sums),
            )
            row, place = t * a.N + n, j * between + n * V
            at = row * a.H + j * V
            gi = a.gi.at((j * M + (t - low) * a.N + n) * (3 * V))
            gates_forward(
                c, self.sums, here.rows, here.groups, gi, c.integer(3 * V), M * (3 * V), h.at(place), h1.at(place),
                between, a.H - j * V, a.what, a.y.at(at), a.H, *tape(a, at), a.H,
            )  # fmt: skip

        each_tile(c, self.shapes, self.tilings.of(part), j0, tile, backwards=s & 1)
        self.cut(part, s + 1)
        with c.when(a.has_valid > 0):  # y = 0 where a row is padding
            first, row = (j0 * V).min(a.H), t * a.N + n0
            y, valid = a.y.at(row * a.H + first), a.valid.at(row)
            copy_valid(c, y, a.H, n1 - n0, (j1 * V).min(a.H) - first, valid, y, a.H)
