"""Tiles, the micro-kernels of all products: their sums stay in registers from the first multiply-add to the last.

A tile is `rows` x `groups` x `width` vectors of sums over k:

    dst[row][group][w] = first[row][group][w] + sum_k A[row, k] * B[group][k][w]

The left operand is read one number at a time, so any strides will do: A[row, k] is at
row * a_row + (k // V) * a_block + k % V, V being the lanes of a vector; a_row and a_block are its leading dimensions.
With a_block = V that is a plain matrix with rows of a_row, with a_row = V and a_block = V * rows it is column blocks,
[column block][row][V]. The right operand is a packed panel: `width` vectors for each k, groups b_group apart. `dst` is
contiguous, and so is each row of `first`; rows are first_row apart, 0 if they are the same. While a tile runs it
prefetches a quarter of its panel's size from `later` on, where the panel of later tiles begins: large weights come from
far away.

The weights' gradients sum over rows of time instead: there k is a row of a blocked A and the tile's rows are its
columns.

Tiles exist for 1 to `shapes.rows` rows, so that a batch of any size is computed without padding rows.
"""

from __future__ import annotations

from gru_xp_cpu.emit.code import Code, Reals, Value, Variable
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import LINE, Module

__all__ = ["chains_of", "sum_chains", "tile", "weight_tile"]

#: how many k ahead the left operand is prefetched
AHEAD = 16


def chains_of(module: Module, sums: int) -> int:
    """Independent sums over k that hide the latency where a tile has few."""
    return 1 if sums >= 8 else min(module.lanes, 2 if sums >= 4 else 4 if sums >= 2 else 8)


@function
def tile(
    c: Code, A: Reals, a_row: Value, a_block: Value, K: Value, B: Reals, b_group: Value, first: Reals,
    first_row: Value, dst: Reals, later: Reals, *, rows: int, groups: int, width: int,
) -> None:  # fmt: skip
    """See above."""
    module, V, columns = c.module, c.module.lanes, groups * width
    vector = V * module.size  # in bytes
    chains = chains_of(module, rows * columns)
    unroll = max(chains, min(V, 1 if rows * columns >= 16 else 2))
    # a single row reads each weight once, at the speed of memory: nothing to hide a prefetch behind
    prefetched = -(-columns * V * vector // (4 * LINE)) if rows > 1 else 0
    zero = c.constant(0.0)
    start = [first.load_vector(first_row * m + j * V) for m in range(rows) for j in range(columns)]
    sums = [c.variable(start[i] if i < rows * columns else zero) for i in range(rows * columns * chains)]
    panels = [B.at(b_group * g) for g in range(groups)]

    def multiply(A: Reals, block: Value, k: Value, count: int) -> None:
        base = (block * V + k) * (width * V)
        for i in range(count):
            weights = [p.load_vector(base + (i * width + w) * V) for p in panels for w in range(width)]
            for m in range(rows):
                a = c.splat(A.load(a_row * m + k + i))
                for j, weight in enumerate(weights):
                    total = sums[(i % chains) * rows * columns + m * columns + j]
                    total.set(c.fma(weight, a, total.get()))

    whole = K // V
    with c.loop(0, whole) as block:
        here = A.at(block * a_block)
        # A's blocks are too far apart for the hardware prefetcher
        for m in range(0, rows, max(1, LINE // vector)):
            here.at(a_block * max(1, AHEAD // V) + a_row * m).prefetch()
        for i in range(prefetched):
            later.at((block * prefetched + i) * (LINE // module.size)).prefetch()
        with c.loop(0, V, unroll) as k:
            multiply(here, block, k, unroll)
    with c.loop(0, K % V) as k:
        multiply(A.at(whole * a_block), whole, k, 1)
    _store(dst, sums, rows * columns, V)


@function
def weight_tile(
    c: Code, A: Reals, a_block: Value, K: Value, B: Reals, b_group: Value, dst: Reals, *, units: int, groups: int
) -> None:
    """dst[unit][group] = sum over K rows of A[unit / V][row][unit % V] * B[group][row]; a_block between A's blocks."""
    V = c.module.lanes
    sums = [c.variable(c.constant(0.0)) for _ in range(units * groups)]
    panels = [B.at(b_group * g) for g in range(groups)]
    blocks = [A.at(a_block * i) for i in range(-(-units // V))]
    with c.loop(0, K) as k:
        row = k * V
        values = [p.load_vector(row) for p in panels]
        for m in range(units):
            a = c.splat(blocks[m // V].load(row + m % V))
            for j, value in enumerate(values):
                total = sums[m * groups + j]
                total.set(c.fma(value, a, total.get()))
    _store(dst, sums, units * groups, V)


def sum_chains(sums: list[Variable], count: int) -> list[Value]:
    """The chains of `count` sums, one behind the other, added pairwise."""
    values = [total.get() for total in sums]
    while len(values) > count:
        half = len(values) // 2
        values = [a + b for a, b in zip(values[:half], values[half:], strict=True)]
    return values


def _store(dst: Reals, sums: list[Variable], count: int, V: int) -> None:
    for i, value in enumerate(sum_chains(sums, count)):
        dst.store_vector(value, i * V)
