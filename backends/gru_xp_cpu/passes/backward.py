"""The backward pass of one layer and direction, as one of its threads executes it.

Time goes backwards in blocks. A block begins with the loop over its steps: one product with W_hh each, whose sums
become the gates' gradients of the step before. So dh is never stored, and threads that share rows have one barrier in a
step, others one after each block. Then comes what needs no loop: dx, and the weights' gradients as products over all
rows of the block.

One layout serves all of it, column blocks [column block][row][V]. The gates' gradients D have four parts, da_n r, da_r,
da_z, da_n: the first three are dgh, the last three dgi. D is the left operand of dh and dx as it is, and transposed
that of the weights' gradients, whose right operands are x and h_prev in the same layout.
"""

from __future__ import annotations

from gru_xp_cpu.emit.code import Code, Integers, Reals, Value
from gru_xp_cpu.emit.function import call_one_of, function
from gru_xp_cpu.threads.barrier import Sections

from .few_rows import backward_of_few_rows, few_rows
from .fields import GATES
from .packing import copy_valid, from_blocked, pack_gates, to_blocked, zero_block_rows
from .pointwise import add_to_carry, add_weights, gates_backward, gates_forward, prefetch, sum_rows, write_rows
from .record import BackwardRecord
from .shapes import columns_shapes, gates_shapes, weight_shapes
from .tiles import weight_tile
from .tiling import Partition, Tile, Tilings, chunks, each_tile, multiply, runs, share, tiling

__all__ = ["backward"]

#: rows that one pass over the input weights serves, and rows that one pass of the weights' gradients sums
CHUNK, DEPTH = 64, 512


@function
def backward(c: Code, fields: Integers, part: Value, parts: Value, sync: Integers) -> None:
    """The shares of one thread."""
    a, sections = BackwardRecord(c, fields), Sections(c, part, parts, sync)
    few = few_rows(a) & (a.has_r > 0)
    c.either(few, lambda: backward_of_few_rows(c, a, sections), lambda: _Backward(c, a, sections).write())


class _Backward:
    def __init__(self, c: Code, a: BackwardRecord, sections: Sections):
        self.c, self.a, self.sections, self.V = c, a, sections, c.module.lanes
        V, registers = self.V, c.module.target.registers
        self.gates, self.columns = gates_shapes(registers), columns_shapes(registers)
        self.weight = weight_shapes(registers)
        most = max(self.gates.vectors, self.columns.vectors, self.weight.vectors)
        self.sums, self.gi, self.zeros = (c.stack_vectors(most) for _ in range(3))
        for i in range(most):
            self.zeros.store_vector(c.constant(0.0), i * V)
        self.J, self.JI = (a.H + (V - 1)) // V, (a.I + (V - 1)) // V
        together = self.weight.blocks(V)
        self.JD = (self.J + (together - 1)) // together * together
        self.again = a.has_r.equals(0)  # whether the gates have to be computed again
        self.between, self.ld = a.N * V, a.pitch * V
        self.partition = Partition(c, a.N, self.J, sections.parts, a.unit_parts)
        self.tilings = Tilings(c, self.columns, self.partition, sections.parts)
        self.sharing = a.unit_parts > 1

    def write(self) -> None:
        c, a = self.c, self.a
        with c.when(a.last.equals(a.T)):
            self.prepare()
        with c.loop_while(a.last, lambda s: s > a.first) as block:
            s1 = block.get()
            s0 = (s1 - a.steps).max(a.first)
            low, steps = c.select(a.reverse > 0, a.T - s1, s0), s1 - s0
            self.ready(low, steps)
            self.loop(s0, s1, low)
            with self.sections.section() as part:
                with c.when(a.has_dx > 0):
                    self.dx(part, low, steps)
                self.weights(part, steps, c.select(s1 < a.T, c.integer(1), 0), s0.equals(0))
            block.set(s0)
        with c.when(a.first.equals(0)), self.sections.section() as part:
            n0, n1, j0, j1 = self.partition.of(part)
            carry, dh0 = a.carry.at(n0 * self.V), a.dh0.at(n0 * a.H)
            from_blocked(c, carry, self.between, n1 - n0, a.H, dh0, a.H, j0, j1)
        self.sections.finish()

    def time(self, s: Value) -> Value:
        return self.c.select(self.a.reverse > 0, self.a.T - 1 - s, s)

    def prepare(self) -> None:
        """Pack the weights, copy the gradient of the last state, and zero what is read but never written."""
        c, a, JD = self.c, self.a, self.JD
        with self.sections.section() as part:
            self.pack_columns(a.W_hh, a.H, a.columns_hh, self.partition.own_blocks(part), (2, 0, 1))
            n0, n1, j0, j1 = self.partition.of(part)
            carry, rows = a.carry.at(n0 * self.V), n1 - n0
            c.either(
                a.has_dh_n > 0,
                lambda: to_blocked(c, a.dh_n.at(n0 * a.H), a.H, rows, a.H, carry, self.between, j0, j1),
                lambda: zero_block_rows(c, carry, self.between, rows, j0, j1),
            )
            with c.when(part.equals(0)), c.when(self.J < JD):
                for gate in range(4):
                    begin = a.D.at((JD * gate + self.J) * self.ld)
                    zero_block_rows(c, begin, self.ld, a.pitch, c.integer(0), JD - self.J)
        with self.sections.section() as part:
            with c.when(a.has_dx > 0):
                self.pack_columns(a.W_ih, a.I, a.columns_ih, share(self.JI, part, self.sections.parts), (0, 1, 2))
            with c.when(self.again):
                pack_gates(c, a, *self.partition.own_blocks(part))

    def pack_columns(
        self, W: Reals, columns: Value, target: Reals, blocks: tuple[Value, Value], order: tuple[int, ...]
    ) -> None:
        """Some column blocks of a weight, its gates in the order of D's parts."""
        c, a, V, JD = self.c, self.a, self.V, self.JD
        depth = JD * V * (3 * V)
        for position, gate in enumerate(order):
            begin, source = target.at(JD * V * (position * V)), W.at(a.H * gate * columns)
            to_blocked(c, source, columns, a.H, columns, begin, depth, *blocks)
            zero_block_rows(c, begin.at(a.H * V), depth, JD * V - a.H, *blocks)

    # ---- before the loop over a block of time -----------------------------------------------------------------------

    def ready(self, low: Value, steps: Value) -> None:
        """x and h_prev in column blocks; dy without the padding's; the gates, where they were not saved."""
        c, a, V = self.c, self.a, self.V
        with self.sections.section() as part:
            m0, m1 = share(steps * a.N, part, self.sections.parts)
            row = low * a.N + m0
            to_blocked(c, a.x.at(row * a.I), a.I, m1 - m0, a.I, a.X.at(m0 * V), self.ld, c.integer(0), self.JI)
            to_blocked(c, a.h_prev.at(row * a.H), a.H, m1 - m0, a.H, a.P.at(m0 * V), self.ld, c.integer(0), self.J)
            with c.when(a.has_valid > 0):
                n0, n1, j0, j1 = self.partition.of(part)
                first = (j0 * V).min(a.H)
                columns = (j1 * V).min(a.H) - first
                with c.loop(0, steps) as i:
                    m = i * a.N + n0
                    dy = a.dy.at((low + i) * a.dy_step + n0 * a.dy_row + first)
                    valid, target = a.valid.at(low * a.N + m), a.dy_clean.at(m * a.H + first)
                    copy_valid(c, dy, a.dy_row, n1 - n0, columns, valid, target, a.H)
        with c.when(self.again), self.sections.section() as part:
            self.recompute(part, low, steps)

    def recompute(self, part: Value, low: Value, steps: Value) -> None:
        """r, z, n and u of the rows and units of a share, as the forward pass had them."""
        c, a, V, ld = self.c, self.a, self.V, self.ld
        n0, n1, j0, j1 = self.partition.of(part)
        size = a.steps * a.N * a.H

        def rows(first: Value, count: Value) -> None:
            def tile(here: Tile) -> None:
                take, j, groups = here.rows, here.group, here.groups
                row, block = first + here.row, groups * (3 * V)
                start_gi, start_gh = (start.at(j * (3 * V)) for start in (a.start_gi, a.start_gh))
                x, h = a.X.at(row * V), a.P.at(row * V)
                multiply(c, self.gates, here, (x, V, ld), a.I, a.panels_ih, start_gi, self.gi)
                with (
                    c.when(a.has_valid > 0),
                    c.loop(0, take) as i,
                    c.when(a.valid.load(low * a.N + row + i).equals(0)),
                    c.loop(0, groups) as g,
                ):
                    self.gi.store_vector(c.constant(float("inf")), i * block + g * (3 * V) + V)
                multiply(c, self.gates, here, (h, V, ld), a.H, a.panels_hh, start_gh, self.sums)
                at, place = row * a.H + j * V, j * ld
                gate = a.gates.at
                gates_forward(
                    c, self.sums, take, groups, self.gi, block, c.integer(3 * V), h.at(place), h.at(place), ld,
                    a.H - j * V, c.integer(GATES), self.gi, c.integer(0), self.gi,
                    gate(size * 0 + at), gate(size * 1 + at), gate(size * 2 + at), gate(size * 3 + at), a.H,
                )  # fmt: skip

            each_tile(c, self.gates, tiling(c, self.gates, count, j1 - j0), j0, tile)

        runs(c, a.N, n0, n1, c.integer(0), steps, CHUNK, rows)

    # ---- the loop over a block of time ------------------------------------------------------------------------------

    def loop(self, s0: Value, s1: Value, low: Value) -> None:
        """dh of each step, from the last to the first, and the gates' gradients."""
        c, last = self.c, s1 - 1
        with self.sections.section() as part:
            n0, _, j0, _ = self.partition.of(part)

            def begin(here: Tile) -> None:
                self.gate_gradients(self.zeros, last, low, n0 + here.row, here.rows, here.group, here.groups)

            each_tile(c, self.columns, self.tilings.of(part), j0, begin)
        stride = c.select(self.sharing, c.integer(1), s1 - s0)
        with c.loop(0, s1 - s0, stride) as first, self.sections.section() as part, c.loop(first, first + stride) as i:
            self.step(part, last - i, s0, low)

    def step(self, part: Value, s: Value, s0: Value, low: Value) -> None:
        """dh of one step for the rows and units of a share, and from it the gates' gradients of the step before."""
        c, a, V = self.c, self.a, self.V
        n0, n1, j0, j1 = self.partition.of(part)
        row, depth = (self.time(s) - low) * a.N, self.JD * (3 * V)

        def tile(here: Tile) -> None:
            n, take, j, groups = n0 + here.row, here.rows, here.group, here.groups
            left = a.D.at((row + n) * V), V, self.ld
            with c.when(s > s0):
                self.prefetch(s - 1, n, take, j, groups)
            multiply(c, self.columns, here, left, depth, a.columns_hh, self.zeros, self.sums)
            carry = a.carry.at(j * self.between + n * V)
            c.either(
                s > s0,
                lambda: self.gate_gradients(self.sums, s - 1, low, n, take, j, groups),
                lambda: add_to_carry(c, self.sums, take, groups, carry, self.between),
            )

        each_tile(c, self.columns, self.tilings.of(part), j0, tile, backwards=s & 1)
        with (
            c.when(a.has_cut > 0),
            c.loop(n0, n1) as n,
            c.when(a.cut.load(self.time(s) * a.N + n) > 0),
        ):
            self.begin_again(s, s0, low, n, j0, j1)

    def begin_again(self, s: Value, s0: Value, low: Value, n: Value, j0: Value, j1: Value) -> None:
        """A row that was reset before step s: nothing flows further back, and step s - 1 has only its dy."""
        c, a = self.c, self.a
        zero_block_rows(c, a.carry.at(n * self.V), self.between, c.integer(1), j0, j1)
        with c.when(s > s0), c.loop(j0, j1) as j:
            self.gate_gradients(self.zeros, s - 1, low, n, c.integer(1), j, c.integer(1))

    def prefetch(self, s: Value, n: Value, take: Value, j: Value, groups: Value) -> None:
        """Prefetch what the gates' gradients of step s will read of the tape."""
        c, a = self.c, self.a
        t, column = self.time(s), j * self.V
        columns = (groups * self.V).min(a.H - column)
        at = (t * a.N + n) * a.H + column
        for saved in (a.h_prev, a.r, a.z, a.n, a.u):
            prefetch(c, saved.at(at), a.H, take, columns)
        prefetch(c, a.dy.at(t * a.dy_step + n * a.dy_row + column), a.dy_row, take, columns)

    def gate_gradients(self, sums: Reals, s: Value, low: Value, n: Value, take: Value, j: Value, groups: Value) -> None:
        """D of step s and the new carry, for some rows and groups, from the sums dgh @ W_hh."""
        c, a, V = self.c, self.a, self.V
        t = self.time(s)
        row, column = (t - low) * a.N + n, j * V
        at = (t * a.N + n) * a.H + column
        dy = a.dy.at(t * a.dy_step + n * a.dy_row + column)
        size, local = a.steps * a.N * a.H, row * a.H + column
        r, z, N, u = (
            c.select_pointer(self.again, a.gates.at(size * i + local), saved.at(at))
            for i, saved in enumerate((a.r, a.z, a.n, a.u))
        )
        padded = a.has_valid > 0
        gates_backward(
            c, sums, take, groups, a.carry.at(j * self.between + n * V), self.between,
            c.select_pointer(padded, a.dy_clean.at(local), dy), c.select(padded, a.H, a.dy_row),
            a.h_prev.at(at), r, z, N, u, a.H, a.D.at(j * self.ld + row * V), self.ld, self.JD * self.ld, a.H - column,
        )  # fmt: skip

    # ---- after it ---------------------------------------------------------------------------------------------------

    def dx(self, part: Value, low: Value, steps: Value) -> None:
        """dx = dgi @ W_ih, for a share of the rows."""
        c, a, V = self.c, self.a, self.V
        m0, m1 = share(steps * a.N, part, self.sections.parts)
        depth = self.JD * (3 * V)

        def rows(first: Value, count: Value) -> None:
            def tile(here: Tile) -> None:
                row, column = m0 + first + here.row, here.group * V
                left = a.D.at(self.JD * self.ld + row * V), V, self.ld
                multiply(c, self.columns, here, left, depth, a.columns_ih, self.zeros, self.sums)
                out = a.dx.at((low * a.N + row) * a.I + column)
                write_rows(c, self.sums, here.rows, here.groups, out, a.I, a.I - column)

            each_tile(c, self.columns, tiling(c, self.columns, count, self.JI), 0, tile)

        chunks(c, m1 - m0, CHUNK, rows)

    def weights(self, part: Value, steps: Value, more: Value, last: Value) -> None:
        """dW_hh = dgh.T @ h_prev, dW_ih = dgi.T @ x and the sums of both, for a share of the units.

        Where arrays have 16 bits, they get the whole sums alone, from the `last` block of time.
        """
        c, a, V, ld = self.c, self.a, self.V, self.ld
        rows, size, most = steps * a.N, self.weight.units, self.weight.groups
        tiles = (a.H + (size - 1)) // size
        q0, q1 = share(tiles * 3, part, self.sections.parts)
        size_of_part = self.JD * ld
        for right, out, sum_so_far, columns, blocks, first, gate_of_first in (
            (a.P, a.dW_hh, a.sum_hh, a.H, self.J, 0, 2),
            (a.X, a.dW_ih, a.sum_ih, a.I, self.JI, 1, 0),
        ):
            so_far = sum_so_far if c.module.narrow else out
            group_tiles = (blocks + (most - 1)) // most
            with c.loop(0, rows, DEPTH) as k, c.loop(0, group_tiles) as g:
                j, after = share(blocks, g, group_tiles)
                depth, groups, left = (rows - k).min(DEPTH), after - j, columns - j * V
                again, B = c.select(k > 0, c.integer(1), more), right.at(j * ld + k * V)
                with c.loop(q0, q1) as q:
                    unit, gate = q % tiles * size, (q // tiles + gate_of_first) % 3
                    units, at = (a.H - unit).min(size), (gate * a.H + unit) * columns + j * V
                    before, target = so_far.at(at), out.at(at)
                    D = a.D.at((q // tiles + first) * size_of_part + unit // V * ld + unit % V + k * V)
                    prefetch(c, before, columns, units, (groups * V).min(left))
                    call_one_of(c, weight_tile, self.weight.variants, groups - 1, D, ld, depth, B, ld, self.sums)
                    whole = last & (k + DEPTH >= rows)
                    self.add(units, groups, before, target, columns, left, again, whole)
        with c.when(a.has_b_ih > 0):
            b0, b1 = share(self.J * 4, part, self.sections.parts)
            with c.loop(b0, b1) as q:
                sum_rows(c, a.D.at(q // self.J * size_of_part + q % self.J * ld), rows, a.totals.at(q * V), more)
                self.bias(q // self.J, q % self.J)

    def add(
        self, units: Value, groups: Value, before: Reals, out: Reals, columns: Value, left: Value, more: Value,
        last: Value,
    ) -> None:  # fmt: skip
        """Add a tile's sums to those `before`; the last ones go `out`, where arrays have 16 bits."""
        c = self.c

        def to(target: Reals) -> None:
            add_weights(c, self.sums, units, groups, before, target, columns, left, more)

        if c.module.narrow:
            c.either(last, lambda: to(out), lambda: to(before))
        else:
            to(out)

    def bias(self, part: Value, j: Value) -> None:
        """Write one sum. Part 0 of D is db_hh's n, parts 1 and 2 are r and z of both, part 3 is db_ih's n."""
        c, a, V = self.c, self.a, self.V
        one, total = c.integer(1), a.totals.at((part * self.J + j) * V)
        gate = (part + 2) % 3
        at = gate * a.H + j * V
        with c.when(part > 0):
            write_rows(c, total, one, one, a.db_ih.at(at), c.integer(0), a.H - j * V)
        with c.when(part < 3):
            write_rows(c, total, one, one, a.db_hh.at(at), c.integer(0), a.H - j * V)
