"""The forward pass of weights and activations of 8 bits, by instructions that multiply bytes and add up in 32 bits.

`gru_xp.integers` defines the numbers: a row of x or a state is rounded to whole numbers k, the sums of k * q are exact,
and are scaled once. The instruction (VNNI, `vpdpbusd`) multiplies four unsigned bytes with four signed ones and adds
all four to a sum of 32 bits, without saturation. So rows are kept as k + 128, and each sum begins with
-128 * (q summed over the row of W), which takes the 128 away again.

Panels of the weights are [unit block][k / 4][gate][V][4] in bytes, those of the rows [row][k]. Everything else is as in
`forward`, with the states as floats beside their bytes; but threads that share rows begin nothing before the barrier,
because a sum is to be scaled once.

Rows of h0 lie within [-1, 1] here, so that the state's scale is 1 throughout; the caller sees to it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gru_xp_cpu.emit.code import Bytes, Code, Integer, Integers, Reals, Value
from gru_xp_cpu.emit.function import call_one_of, function
from gru_xp_cpu.emit.module import I8, I32
from gru_xp_cpu.threads.barrier import Sections

from .forward import CHUNK, Forward
from .packing import copy_valid
from .record import IntegerRecord
from .tiles import chains_of
from .tiling import Tile, each_tile, runs, share, tiling

__all__ = ["integers"]

#: bytes that a product takes at once of each row
QUAD = 4
OFFSET = 128
#: of a row of x: the least of what its largest number is taken for, and that of the first number that is not finite
LEAST, INFINITE = 27 << 23, 255 << 23


@function
def integers(c: Code, fields: Integers, part: Value, parts: Value, sync: Integers) -> None:
    """The shares of one thread."""
    _Integers(c, IntegerRecord(c, fields), Sections(c, part, parts, sync)).write()


class _Integers(Forward):
    a: IntegerRecord

    def __init__(self, c: Code, a: IntegerRecord, sections: Sections):
        super().__init__(c, a, sections)
        V = self.V
        self.row_of_x, self.row_of_h = ((a.I + (V - 1)) // V) * V, self.J * V  # bytes

    def prepare(self) -> None:
        """Copy the first state; the weights are packed."""
        with self.sections.section() as part:
            self.copy_h0(part)

    def cut(self, part: Value, s: Value) -> None:
        """As `Forward.cut`, and then the bytes of the state that step s will read."""
        super().cut(part, s)
        n0, n1, j0, j1 = self.partition.of(part)
        state_to_bytes(self.c, self.state(s), self.a.N * self.V, n0, n1, j0, j1, self.bytes_h(s), self.row_of_h)

    def bytes_h(self, s: Value) -> Bytes:
        """The rows of the state that step s reads."""
        return self.c.pointer(Bytes, self.a.bytes_h).at((s & 1) * (self.a.N * self.row_of_h))

    def begin(self, part: Value, s: Value) -> None:
        """Begin nothing."""

    def continue_sums(self, part: Value, s: Value, here: Tile, sums: Reals) -> None:
        """All of the sums."""
        self.recurrent(s, self.partition.of(part)[0] + here.row, here, self.a.start_gh, sums)

    def project(self, low: Value, steps: Value) -> None:
        """As `Forward.project`, of rows that are rounded before."""
        c, a = self.c, self.a
        M, padded = steps * a.N, a.has_valid > 0
        source = c.select_pointer(padded, a.x_clean, a.x)
        with self.sections.section() as part:
            m0, m1 = share(M, part, self.sections.parts)
            first = low * a.N + m0
            with c.when(padded):
                valid = a.valid.at(first)
                copy_valid(c, a.x.at(first * a.I), a.I, m1 - m0, a.I, valid, a.x_clean.at(first * a.I), a.I)
            target = c.pointer(Bytes, a.bytes_x).at(m0 * self.row_of_x)
            rows_to_bytes(c, source.at(first * a.I), m1 - m0, a.I, target, self.row_of_x, a.size_x.at(m0))
        self.project_shares(source, low, steps, M)

    def project_share(self, part: Value, source: Reals, low: Value, first: Value, last: Value, M: Value) -> None:
        """As `Forward.project_share`."""
        c, a, V = self.c, self.a, self.V
        n0, n1, j0, j1 = self.partition.of(part)

        def rows(begin: Value, count: Value) -> None:
            def tile(at: Tile) -> None:
                row = begin + at.row
                left = c.pointer(Bytes, a.bytes_x).at(row * self.row_of_x), self.row_of_x
                gi = a.gi.at((at.group * M + row) * (3 * V))
                self.multiply(at, left, a.panels_ih, a.first_ih, (a.size_x.at(row), 1), a.scale_ih, a.start_gi, gi)

            each_tile(c, self.shapes, tiling(c, self.shapes, count, j1 - j0, limit=1), j0, tile)
            self.hold_padding(low, begin, count, M, j0, j1)

        runs(c, a.N, n0, n1, first, last, CHUNK, rows)

    def recurrent(
        self, s: Value, n: Value, here: Tile, first: Reals, sums: Reals, first_row: Integer = 0,
        span: tuple[Value, Value] | None = None,
    ) -> None:  # fmt: skip
        """sums = b_hh + h @ W_hh.T for a tile whose rows begin at n."""
        a = self.a
        left = self.bytes_h(s).at(n * self.row_of_h), self.row_of_h
        self.multiply(here, left, a.panels_hh, a.first_hh, (a.one, 0), a.scale_hh, a.start_gh, sums)

    def multiply(
        self, at: Tile, left: tuple[Bytes, Value], panels: Reals, first: Reals, size: tuple[Reals, int], scale: Reals,
        start: Reals, dst: Reals,
    ) -> None:  # fmt: skip
        """Run a tile; `panels`, `first`, `scale` and `start` are those of all unit blocks."""
        c, block = self.c, 3 * self.V
        quads, group = left[1] // QUAD, at.group * block
        between = quads * (block * QUAD)
        panel = c.pointer(Bytes, panels).at(at.group * between)
        call_one_of(
            c, integer_tile, [{"rows": v["rows"], "groups": v["groups"]} for v in self.shapes.variants], at.variant,
            left[0], left[1], quads, panel, between, first.at(group), size[0], c.integer(size[1]), scale.at(group),
            start.at(group), dst,
        )  # fmt: skip


@function
def integer_tile(
    c: Code, A: Bytes, a_row: Value, quads: Value, B: Bytes, b_group: Value, first: Reals, size: Reals, size_row: Value,
    scale: Reals, start: Reals, dst: Reals, *, rows: int, groups: int,
) -> None:  # fmt: skip
    """dst[row][group][gate] = start + (first + sum over k of A[row, k] * B[group][k][gate]) * size[row] * scale."""
    V, count = c.module.lanes, rows * groups * 3
    chains, word = min(2, chains_of(c.module, count)), ir.VectorType(I32, V)
    begun = [_load(c, first, word, j * V) for j in range(groups * 3)]
    zero = Value(c, ir.Constant(word, None))
    sums = [c.variable(begun[i % (groups * 3)] if i < count else zero) for i in range(count * chains)]
    panels = [B.at(b_group * g) for g in range(groups)]

    def multiply(quad: Value, chain: int) -> None:
        place = quad * (3 * V * QUAD)
        weights = [_load(c, panel.at(place), word, gate * V) for panel in panels for gate in range(3)]
        for m in range(rows):
            four = c.b.load(A.at(a_row * m + quad * QUAD).ir, align=1, typ=I32)
            row = c.splat(Value(c, four))
            for j, weight in enumerate(weights):
                total = sums[chain * count + m * groups * 3 + j]
                total.set(dot(c, total.get(), row, weight))

    whole = quads // chains * chains
    with c.loop(0, whole, chains) as quad:
        for chain in range(chains):
            multiply(quad + chain, chain)
    with c.loop(whole, quads) as quad:
        multiply(quad, 0)
    for m in range(rows):
        m_of_row = c.splat(size.load(size_row * m))
        for j in range(groups * 3):
            at = m * groups * 3 + j
            total = sums[at].get()
            for chain in range(1, chains):
                total = total + sums[chain * count + at].get()
            real = Value(c, c.b.sitofp(total.ir, c.module.vector))
            value = c.fma(real, m_of_row * scale.load_vector(j * V), start.load_vector(j * V))
            dst.store_vector(value, at * V)


def dot(c: Code, total: Value, row: Value, weight: Value) -> Value:
    """To each word its four unsigned bytes of `row` times the four signed ones of `weight`."""
    word = ir.VectorType(I32, c.module.lanes)
    name = f"llvm.x86.avx512.vpdpbusd.{c.module.target.bits}"
    return Value(c, c.b.call(c.intrinsic(name, ir.FunctionType(word, [word] * 3)), [total.ir, row.ir, weight.ir]))


@function
def rows_to_bytes(
    c: Code, source: Reals, rows: Value, columns: Value, target: Bytes, target_row: Value, sizes: Reals
) -> None:
    """Rows of whole numbers + 128, scaled by their largest one, which goes to `sizes`; NaN if one is not finite."""
    V = c.module.lanes
    with c.loop(0, rows) as m:
        line, out = source.at(m * columns), target.at(m * target_row)
        most = c.variable(Value(c, ir.Constant(c.module.bits_vector, [LEAST] * V)))

        def look(k: Value, mask: Value | None, line: Reals = line, most: Any = most) -> None:
            bits = c.bits_of(line.load_vector(k, mask)) & 0x7FFFFFFF
            so_far = most.get()
            most.set(Value(c, c.b.select((bits > so_far).ir, bits.ir, so_far.ir)))

        with c.loop(0, columns, V) as k:
            c.masked(columns - k, lambda mask, k=k: look(k, mask))  # type: ignore[misc]
        reduce = c.intrinsic(f"llvm.vector.reduce.smax.v{V}i32", ir.FunctionType(I32, [c.module.bits_vector]))
        bits = Value(c, c.b.call(reduce, [most.get().ir]))
        bits = c.select(bits >= INFINITE, INFINITE | 1 << 22, bits)
        size = Value(c, c.b.bitcast(bits.ir, c.module.real))
        sizes.store(size, m)
        factor = c.splat(Value(c, ir.Constant(c.module.real, 127.0)) / size)

        def write(k: Value, mask: Value | None, line: Reals = line, out: Bytes = out, factor: Value = factor) -> None:
            _store_bytes(c, line.load_vector(k, mask) * factor, out.at(k))

        with c.loop(0, columns, V) as k:
            c.masked(columns - k, lambda mask, k=k: write(k, mask))  # type: ignore[misc]


@function
def state_to_bytes(
    c: Code, state: Reals, block: Value, n0: Value, n1: Value, j0: Value, j1: Value, target: Bytes, target_row: Value
) -> None:
    """Rows n0 to n1 and unit blocks j0 to j1 of a state in column blocks, as whole numbers + 128."""
    V = c.module.lanes
    with c.loop(j0, j1) as j, c.loop(n0, n1) as n:
        _store_bytes(c, state.load_vector(j * block + n * V) * 127.0, target.at(n * target_row + j * V))


def _store_bytes(c: Code, numbers: Value, target: Bytes) -> None:
    """A vector of numbers from -127 to 127, rounded half to even, + 128; what is NaN becomes 128."""
    rounded = c.lanewise("rint", numbers)
    whole_kind = c.module.bits_vector
    name = f"llvm.fptosi.sat.v{c.module.lanes}i32.{c.suffix}"
    whole = Value(c, c.b.call(c.intrinsic(name, ir.FunctionType(whole_kind, [c.module.vector])), [rounded.ir]))
    small = c.b.trunc((whole + OFFSET).ir, ir.VectorType(I8, c.module.lanes))
    c.b.store(small, target.ir, align=1)


def _load(c: Code, at: Reals | Bytes, kind: Any, index: int) -> Value:
    """A vector of words, `index` of them behind an address."""
    return Value(c, c.b.load(c.b.gep(at.ir, [I32(index)], source_etype=I32), align=4, typ=kind))
