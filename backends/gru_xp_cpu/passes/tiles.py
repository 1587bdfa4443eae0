"""The products' inner loops: tiles whose sums stay in registers.

A tile is `rows` x `groups` x `width` vectors of sums over k:

    dst[row][group][w] = first[row][group][w] + sum_k A[row, k] * B[group][k][w]

The left operand is read one number at a time, so it may lie anywhere: A[row, k] stands at row * a_row + (k / V) *
a_block + k % V, V being the lanes of a vector. With a_block = V that is a plain matrix with rows of a_row, with a_row
= V and a_block = V * rows it is the blocked format [column block][row][V]. The right operand is packed: `width`
vectors for each k, groups b_group apart; `dst` is compact, and so is each row of `first`, the rows being first_row
apart, 0 if they are the same. While a tile runs it has a quarter of as much fetched from `next` on, where the right
operand of later tiles begins: large weights come from far away.

The weights' gradients sum over rows of time instead: there k is a row of a blocked A and the tile's rows are its
columns.

Every tile of some table exists for 1 to `rows` rows, so that what is left of a batch costs what it must.
"""

from __future__ import annotations

from gru_xp_cpu.emit.code import LINE, Pointer, Unit, Value, Variable

from .shapes import Shapes, weight_units

__all__ = [
    "chains_of",
    "sum_chains",
    "tiles",
    "weight_tiles",
]

#: how many k ahead the left operand is fetched
AHEAD = 16
ARGUMENTS = "*A a_row a_block K *B b_group *first first_row *dst *next"


def tiles(unit: Unit, name: str, shapes: Shapes) -> None:
    """All tiles of some width, and a table of them: [rows - 1][groups - 1], `max(groups)` to a row."""
    most = max(shapes.groups)
    names = []
    for rows, groups in enumerate(shapes.groups, 1):
        for group in range(1, most + 1):
            if group <= groups:
                _tile(unit, f"{name}_{rows}x{group}", rows, group, shapes.width)
            names.append(f"{name}_{rows}x{min(group, groups)}")
    unit.table(name, names)


def chains_of(unit: Unit, sums: int) -> int:
    """Independent sums over k that hide the latency where a tile has few."""
    return 1 if sums >= 8 else min(unit.lanes, 2 if sums >= 4 else 4 if sums >= 2 else 8)


def _tile(unit: Unit, name: str, rows: int, groups: int, width: int) -> None:
    V, columns, size = unit.lanes, groups * width, unit.lanes * unit.size
    chains = chains_of(unit, rows * columns)
    unroll = max(chains, min(V, 1 if rows * columns >= 16 else 2))
    # a single row reads each weight once, as fast as it can be had
    fetched = -(-columns * V * size // (4 * LINE)) if rows > 1 else 0
    with unit.function(name, ARGUMENTS) as c:
        zero = c.constant(0.0)
        start = [c.first.vector(c.first_row * m + j * V) for m in range(rows) for j in range(columns)]
        sums = [c.variable(start[i] if i < rows * columns else zero) for i in range(rows * columns * chains)]
        panels = [c.B.at(c.b_group * g) for g in range(groups)]

        def multiply(A: Pointer, block: Value, k: Value, count: int) -> None:
            base = (block * V + k) * (width * V)
            for i in range(count):
                weights = [p.vector(base + (i * width + w) * V) for p in panels for w in range(width)]
                for m in range(rows):
                    a = c.splat(A.load(c.a_row * m + k + i))
                    for j, weight in enumerate(weights):
                        total = sums[(i % chains) * rows * columns + m * columns + j]
                        total.set(c.fma(weight, a, total.get()))

        whole = c.K / V
        with c.loop(0, whole) as block:
            A = c.A.at(block * c.a_block)
            # A's blocks lie far apart, so nothing but this fetches them in time
            for m in range(0, rows, max(1, LINE // size)):
                A.at(c.a_block * max(1, AHEAD // V) + c.a_row * m).prefetch()
            for i in range(fetched):
                c.next.at((block * fetched + i) * (LINE // unit.size)).prefetch()
            with c.loop(0, V, unroll) as k:
                multiply(A, block, k, unroll)
        with c.loop(0, c.K % V) as k:
            multiply(c.A.at(whole * c.a_block), whole, k, 1)
        _finish(c.dst, sums, rows * columns, V)


def weight_tiles(unit: Unit, name: str) -> None:
    """Tiles that sum over time, for each number of groups, and their table."""
    units, most = weight_units(unit.target.registers)
    for groups in range(1, most + 1):
        _weight_tile(unit, f"{name}_{groups}", units, groups)
    unit.table(name, [f"{name}_{groups}" for groups in range(1, most + 1)])


def _weight_tile(unit: Unit, name: str, units: int, groups: int) -> None:
    """dst[unit][group] = sum over K rows of A[unit / V][row][unit % V] * B[group][row]; a_block between A's."""
    V = unit.lanes
    with unit.function(name, "*A a_block K *B b_group *dst") as c:
        sums = [c.variable(c.constant(0.0)) for _ in range(units * groups)]
        panels = [c.B.at(c.b_group * g) for g in range(groups)]
        blocks = [c.A.at(c.a_block * i) for i in range(-(-units // V))]
        with c.loop(0, c.K) as k:
            row = k * V
            values = [p.vector(row) for p in panels]
            for m in range(units):
                a = c.splat(blocks[m // V].load(row + m % V))
                for j, value in enumerate(values):
                    total = sums[m * groups + j]
                    total.set(c.fma(value, a, total.get()))
        _finish(c.dst, sums, units * groups, V)


def sum_chains(sums: list[Variable], count: int) -> list[Value]:
    """The chains of `count` sums, one behind the other, added pairwise."""
    values = [total.get() for total in sums]
    while len(values) > count:
        half = len(values) // 2
        values = [a + b for a, b in zip(values[:half], values[half:], strict=True)]
    return values


def _finish(dst: Pointer, sums: list[Variable], count: int, V: int) -> None:
    """Store the sums."""
    for i, value in enumerate(sum_chains(sums, count)):
        dst.put(value, i * V)
