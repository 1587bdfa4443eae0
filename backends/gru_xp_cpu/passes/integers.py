"""The forward pass of 8-bit weights, by instructions that multiply whole numbers and add them up in 32 bits.

Rows of x and states are rounded to whole numbers k and cut into digits, see `digits`; the weights are q, from -128 to
127. Each digit has its sums of k * q, which are exact, and which are scaled once. Two instructions serve:

VNNI (`vpdpbusd`)   multiplies four unsigned bytes with four signed ones and adds all four to a sum of 32 bits, without
                    saturation. The highest digit is kept with 128 added, and its sum begins with
                    -128 * (q summed over the row of W), which takes the 128 away again
`pmaddwd`           multiplies two pairs of 16 bits and adds both, exactly; the weights are widened to 16 bits in
                    registers. Where the processor is not x86 LLVM finds instructions for the same

Panels of the weights are [unit block][k / depth][gate][V][depth] in bytes, rows [row][digit][k]. Everything else is as
in `forward`, with the states as floats beside their digits; but threads that share rows begin nothing before the
barrier, because a sum is to be scaled once.

Rows of h0 lie within [-1, 1] here, so that the state's scale is 1 throughout; `misfits` sees to it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from gru_xp_cpu.emit.code import Bytes, Code, Integer, Integers, Reals, Value
from gru_xp_cpu.emit.function import call_one_of, function
from gru_xp_cpu.emit.module import I8, I32, Module
from gru_xp_cpu.threads.barrier import Sections

from .digits import ROUNDING, Digits, digits_of
from .fields import Kind
from .forward import CHUNK, Forward
from .packing import copy_valid
from .record import IntegerRecord
from .shapes import Shapes
from .tiles import chains_of
from .tiling import Tile, each_tile, runs, share, tiling

__all__ = ["fixed", "integers"]

I16 = ir.IntType(16)
#: of a row of x: the least of what its largest number is taken for, and that of the first number that is not finite
LEAST, INFINITE = 27 << 23, 255 << 23


@function
def integers(c: Code, fields: Integers, part: Value, parts: Value, sync: Integers) -> None:
    """The shares of one thread, with rows of 8 bits."""
    _Integers(c, IntegerRecord(c, fields), Sections(c, part, parts, sync), "integers").write()


@function
def fixed(c: Code, fields: Integers, part: Value, parts: Value, sync: Integers) -> None:
    """The shares of one thread, with rows of 24 bits."""
    _Integers(c, IntegerRecord(c, fields), Sections(c, part, parts, sync), "fixed").write()


class _Integers(Forward):
    a: IntegerRecord

    def __init__(self, c: Code, a: IntegerRecord, sections: Sections, kind: Kind):
        self.kind, self.digits = kind, digits_of(kind, c.module.target)
        super().__init__(c, a, sections)
        V = self.V
        self.row_of_x, self.row_of_h = ((n * V) * self.digits.bytes for n in ((a.I + (V - 1)) // V, self.J))

    def tiles(self, registers: int) -> Shapes:
        """Those of the digits."""
        return self.digits.shapes(registers)

    def prepare(self) -> None:
        """Copy the first state; the weights are packed."""
        with self.sections.section() as part:
            self.copy_h0(part)

    def cut(self, part: Value, s: Value) -> None:
        """As `Forward.cut`, and then the digits of the state that step s will read."""
        super().cut(part, s)
        n0, n1, j0, j1 = self.partition.of(part)
        to_digits = self.c, self.state(s), self.a.N * self.V, n0, n1, j0, j1, self.digits_h(s), self.row_of_h
        state_to_digits(*to_digits, kind=self.kind)

    def digits_h(self, s: Value) -> Bytes:
        """The rows of the state that step s reads."""
        return self.c.pointer(Bytes, self.a.digits_h).at((s & 1) * (self.a.N * self.row_of_h))

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
            target = c.pointer(Bytes, a.digits_x).at(m0 * self.row_of_x)
            given = c, source.at(first * a.I), m1 - m0, a.I, target, self.row_of_x, a.size_x.at(m0)
            rows_to_digits(*given, kind=self.kind)
        self.project_shares(source, low, steps, M)

    def project_share(self, part: Value, source: Reals, low: Value, first: Value, last: Value, M: Value) -> None:
        """As `Forward.project_share`."""
        c, a, V = self.c, self.a, self.V
        n0, n1, j0, j1 = self.partition.of(part)

        def rows(begin: Value, count: Value) -> None:
            def tile(at: Tile) -> None:
                row = begin + at.row
                left = c.pointer(Bytes, a.digits_x).at(row * self.row_of_x), self.row_of_x
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
        left = self.digits_h(s).at(n * self.row_of_h), self.row_of_h
        self.multiply(here, left, a.panels_hh, a.first_hh, (a.one, 0), a.scale_hh, a.start_gh, sums)

    def multiply(
        self, at: Tile, left: tuple[Bytes, Value], panels: Reals, first: Reals, size: tuple[Reals, int], scale: Reals,
        start: Reals, dst: Reals,
    ) -> None:  # fmt: skip
        """Run a tile; `panels`, `first`, `scale` and `start` are those of all unit blocks."""
        c, block, digits = self.c, 3 * self.V, self.digits
        columns, group = left[1] // digits.bytes, at.group * block
        panel = c.pointer(Bytes, panels).at(group * columns)
        variants = [{"rows": v["rows"], "groups": v["groups"], "largest": digits.largest} for v in self.shapes.variants]
        call_one_of(
            c, integer_tile, variants, at.variant, left[0], left[1], columns, panel, columns * block, first.at(group),
            size[0], c.integer(size[1]), scale.at(group), start.at(group), dst,
        )  # fmt: skip


@function
def integer_tile(
    c: Code, A: Bytes, a_row: Value, columns: Value, B: Bytes, b_group: Value, first: Reals, size: Reals,
    size_row: Value, scale: Reals, start: Reals, dst: Reals, *, rows: int, groups: int, largest: int,
) -> None:  # fmt: skip
    """dst[row][group][gate] = start + (first + sum over k of A[row, k] * B[group][k][gate]) * size[row] * scale."""
    digits = _digits(c.module, largest)
    V, depth, across = c.module.lanes, digits.depth, groups * 3
    count = rows * across * digits.count
    chains, word = min(2, chains_of(c.module, count)), ir.VectorType(I32, V)
    zero = Value(c, ir.Constant(word, None))
    begun = [_load(c, first.at(j * V), word) for j in range(across)]
    # of each row, column and digit, and again for each chain
    sums = {
        (chain, m, j, d): c.variable(begun[j] if chain == 0 and d == digits.count - 1 else zero)
        for chain in range(chains) for m in range(rows) for j in range(across) for d in range(digits.count)
    }  # fmt: skip
    panels = [B.at(b_group * g) for g in range(groups)]

    def multiply(step: Value, chain: int) -> None:
        place = step * (3 * V * depth)
        weights = [_weights(c, panel.at(place + gate * V * depth), digits) for panel in panels for gate in range(3)]
        for m in range(rows):
            for d in range(digits.count):
                some = A.at(a_row * m + (columns * d + step * depth) * digits.size)
                row = c.splat(Value(c, c.b.load(some.ir, align=1, typ=I32)))
                for j, weight in enumerate(weights):
                    total = sums[chain, m, j, d]
                    total.set(_dot(c, total.get(), row, weight, digits))

    steps = columns // depth
    whole = steps // chains * chains
    with c.loop(0, whole, chains) as step:
        for chain in range(chains):
            multiply(step + chain, chain)
    with c.loop(whole, steps) as step:
        multiply(step, 0)

    def sum_of(m: int, j: int, d: int) -> Value:
        total = sums[0, m, j, d].get()
        for chain in range(1, chains):
            total = total + sums[chain, m, j, d].get()
        return Value(c, c.b.sitofp(total.ir, c.module.vector))

    for m in range(rows):
        m_of_row = c.splat(size.load(size_row * m))
        for j in range(across):
            real = sum_of(m, j, digits.count - 1)
            for d in reversed(range(digits.count - 1)):
                real = c.fma(real, c.constant(2.0**digits.bits), sum_of(m, j, d))
            value = c.fma(real, m_of_row * scale.load_vector(j * V), start.load_vector(j * V))
            dst.store_vector(value, (m * across + j) * V)


def _digits(module: Module, largest: int) -> Digits:
    return next(digits for kind in ROUNDING if (digits := digits_of(kind, module.target)).largest == largest)


def _weights(c: Code, at: Bytes, digits: Digits) -> Value:
    """A vector of words with some weights of each of V rows, as bytes or widened to 16 bits."""
    count = c.module.lanes * digits.depth
    loaded = c.b.load(at.ir, align=1, typ=ir.VectorType(I8, count))
    return Value(c, loaded if digits.size == 1 else c.b.sext(loaded, ir.VectorType(I16, count)))


def _dot(c: Code, total: Value, row: Value, weight: Value, digits: Digits) -> Value:
    """To each word the sum of its numbers of `row`, each times that of `weight`."""
    V, target = c.module.lanes, c.module.target
    word, half = ir.VectorType(I32, V), ir.VectorType(I16, 2 * V)
    if digits.size == 1:
        call = c.intrinsic(f"llvm.x86.avx512.vpdpbusd.{target.bits}", ir.FunctionType(word, [word] * 3))
        return Value(c, c.b.call(call, [total.ir, row.ir, c.b.bitcast(weight.ir, word)]))
    pairs = c.b.bitcast(row.ir, half)
    if target.x86:
        name = {512: "avx512.pmaddw.d.512", 256: "avx2.pmadd.wd", 128: "sse2.pmadd.wd"}[target.bits]
        call = c.intrinsic(f"llvm.x86.{name}", ir.FunctionType(word, [half] * 2))
        return total + Value(c, c.b.call(call, [pairs, weight.ir]))
    for first in (0, 1):
        lanes = ir.Constant(word, list(range(first, 2 * V, 2)))
        a, b = (c.b.sext(c.b.shuffle_vector(each, each, lanes), word) for each in (pairs, weight.ir))
        total = total + Value(c, c.b.mul(a, b))
    return total


@function
def rows_to_digits(
    c: Code, source: Reals, rows: Value, columns: Value, target: Bytes, target_row: Value, sizes: Reals, *, kind: Kind
) -> None:
    """Rows as whole numbers, scaled by their largest number, which goes to `sizes`; NaN if one is not finite."""
    V, digits = c.module.lanes, digits_of(kind, c.module.target)
    apart = target_row // digits.count
    with c.loop(0, rows) as m:
        line, out = source.at(m * columns), target.at(m * target_row)
        most = c.variable(Value(c, ir.Constant(c.module.bits_vector, [LEAST] * V)))

        def look(k: Value, mask: Value | None, line: Reals = line, most: Any = most) -> None:
            bits = c.bits_of(line.load_vector(k, mask)) & 0x7FFFFFFF
            so_far = most.get()
            most.set(Value(c, c.b.select((bits > so_far).ir, bits.ir, so_far.ir)))

        with c.loop(0, columns, V) as k:
            c.masked(columns - k, lambda mask, k=k: look(k, mask))  # type: ignore[misc]
        bits = c.largest(most.get())
        bits = c.select(bits >= INFINITE, INFINITE | 1 << 22, bits)
        size = Value(c, c.b.bitcast(bits.ir, c.module.real))
        sizes.store(size, m)
        factor = c.splat(Value(c, ir.Constant(c.module.real, float(digits.largest))) / size)

        def write(k: Value, mask: Value | None, line: Reals = line, out: Bytes = out, factor: Value = factor) -> None:
            _store_digits(c, line.load_vector(k, mask) * factor, out.at(k * digits.size), apart, digits)

        with c.loop(0, columns, V) as k:
            c.masked(columns - k, lambda mask, k=k: write(k, mask))  # type: ignore[misc]


@function
def state_to_digits(
    c: Code, state: Reals, block: Value, n0: Value, n1: Value, j0: Value, j1: Value, target: Bytes, target_row: Value,
    *, kind: Kind,
) -> None:  # fmt: skip
    """Rows n0 to n1 and unit blocks j0 to j1 of a state in column blocks, as whole numbers."""
    V, digits = c.module.lanes, digits_of(kind, c.module.target)
    apart = target_row // digits.count
    with c.loop(j0, j1) as j, c.loop(n0, n1) as n:
        numbers = state.load_vector(j * block + n * V) * float(digits.largest)
        _store_digits(c, numbers, target.at(n * target_row + j * (V * digits.size)), apart, digits)


def _store_digits(c: Code, numbers: Value, target: Bytes, apart: Value, digits: Digits) -> None:
    """The digits, `apart` bytes from each other, of a vector of numbers rounded half to even; NaN is 0."""
    V = c.module.lanes
    rounded = c.lanewise("rint", c.select(numbers.equals(numbers), numbers, c.constant(0.0)))
    whole = Value(c, c.b.fptosi(rounded.ir, c.module.bits_vector))
    for d in range(digits.count):
        digit = whole >> (digits.bits * d) if d else whole
        if d < digits.count - 1:
            digit = digit & 2**digits.bits - 1
        elif digits.offset:
            digit = digit + digits.offset
        small = c.b.trunc(digit.ir, ir.VectorType(ir.IntType(8 * digits.size), V))
        c.b.store(small, target.at(apart * d).ir, align=1)


def _load(c: Code, at: Reals, kind: Any) -> Value:
    """A vector of words."""
    return Value(c, c.b.load(at.ir, align=4, typ=kind))
