"""Products with the weights as they lie, for one row: to pack them first would take longer than the whole step.

W (rows, columns) is a plain matrix whose last vectors may be masked.
"""

from __future__ import annotations

from collections.abc import Callable

from .code import Code, Unit, Value

__all__ = ["products_of_one_row"]

#: vectors of columns at once, and partial sums of each where there is but one
TOGETHER, CHAINS = 4, 4


def products_of_one_row(unit: Unit, kind: str) -> None:
    """All functions of this page that a kind needs."""
    if kind == "forward":
        _row_times_transposed(unit)
    else:
        _row_times(unit)
        _outer(unit)


def _row_times_transposed(unit: Unit) -> None:
    """dst = first + a @ W.T, one vector: a (columns,), and no more rows of W than a vector has lanes."""
    V = unit.lanes
    at_once = min(V, 16 if unit.target.registers == 32 else 4)
    with unit.function("row_times_transposed", "*a *W rows columns *first *dst") as c:
        place = c.room(V)
        whole, rest = c.columns / V * V, c.columns % V
        with c.loop(0, V, at_once) as r:
            rows = [c.W.at((r + i).min(c.rows - 1) * c.columns) for i in range(at_once)]
            sums = [c.variable(c.constant(0.0)) for _ in rows]

            def multiply(k: Value, mask: Value | None) -> None:
                a = c.a.vector(k, mask)
                for total, row in zip(sums, rows, strict=True):
                    total.set(c.fma(row.vector(k, mask), a, total.get()))

            with c.loop(0, whole, V) as k:
                multiply(k, None)
            with c.when(rest > 0):
                multiply(whole, c.first_lanes(rest))
            for i, total in enumerate(sums):
                place.put(total.get(), (r + i) * V)
        c.dst.put(c.first.vector() + _sums_of_lanes(c, [place.vector(i * V) for i in range(V)]))


def _sums_of_lanes(c: Code, vectors: list[Value]) -> Value:
    """The sum of the lanes of each vector, in the lane of its number."""
    V, width = len(vectors), len(vectors)  # of the vectors, and of what is still to be summed of each
    while width > 1:
        first = [at + i for at in range(0, V, width) for i in range(width // 2)]
        second = [i + width // 2 for i in first]
        both = [[*lanes, *(V + i for i in lanes)] for lanes in (first, second)]
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [c.shuffle(a, b, both[0]) + c.shuffle(a, b, both[1]) for a, b in pairs]
        width //= 2
    return vectors[0]


def _over_columns(c: Code, write: Callable[[Value, int, int, Value | None], None]) -> None:
    """write(column, vectors, chains, mask) for all of c.columns: some vectors at once, the rest one by one."""
    V = c.unit.lanes
    wide = c.columns / (TOGETHER * V) * (TOGETHER * V)
    with c.loop(0, wide, TOGETHER * V) as k:
        write(k, TOGETHER, 2, None)
    with c.loop(wide, c.columns, V) as k:
        c.masked(c.columns - k, lambda mask: write(k, 1, CHAINS, mask))


def _row_times(unit: Unit) -> None:
    """out = a @ W, or out += a @ W where `more` is not zero: a (rows,), out (columns,)."""
    V = unit.lanes
    with unit.function("row_times", "*a *W rows columns *out more") as c:

        def write(k: Value, groups: int, chains: int, mask: Value | None) -> None:
            nothing = c.constant(0.0)
            sums = [c.variable(nothing) for _ in range(groups * chains)]
            for g in range(groups):
                sums[g].set(c.select(c.more > 0, c.out.vector(k + g * V, mask), nothing))

            def multiply(row: Value, chain: int) -> None:
                a, W = c.splat(c.a.load(row)), c.W.at(row * c.columns + k)
                for g, total in enumerate(sums[chain * groups : (chain + 1) * groups]):
                    total.set(c.fma(W.vector(g * V, mask), a, total.get()))

            whole = c.rows / chains * chains
            with c.loop(0, whole, chains) as row:
                for i in range(chains):
                    multiply(row + i, i)
            with c.loop(whole, c.rows) as row:
                multiply(row, 0)
            for g in range(groups):
                total = sums[g].get()
                for chain in range(1, chains):
                    total = total + sums[chain * groups + g].get()
                c.out.put(total, k + g * V, mask)

        _over_columns(c, write)


def _outer(unit: Unit) -> None:
    """out[i, k] = left[i] * right[k]: left (rows,), right (columns,)."""
    V = unit.lanes
    with unit.function("outer", "*left *right rows columns *out") as c:

        def write(k: Value, groups: int, _: int, mask: Value | None) -> None:
            right = [c.right.vector(k + g * V, mask) for g in range(groups)]
            with c.loop(0, c.rows) as row:
                left, out = c.splat(c.left.load(row)), c.out.at(row * c.columns + k)
                for g, value in enumerate(right):
                    out.put(left * value, g * V, mask)

        _over_columns(c, write)
