"""One step of one row, with the weights as they lie: to pack them first would take longer than the whole step.

W (rows, columns) is a plain matrix whose last vectors may be masked; all that has but one row is a plain vector.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from .code import Code, Record, Unit, Value
from .tiles import chains_of, sum_chains

__all__ = ["backward_of_one_row", "forward_of_one_row", "is_one_row", "products_of_one_row"]

#: vectors of columns at once
AT_ONCE = 4


def is_one_row(c: Code, a: Record) -> Value:
    """Whether a call is such a step, without padding and resets, and for one thread."""
    return (a.T * a.N).equals(1) & a.has_valid.equals(0) & a.has_cut.equals(0) & c.parts.equals(1)


def forward_of_one_row(c: Code, a: Record) -> None:
    """The whole forward pass."""
    V = c.unit.lanes
    J = (a.H + (V - 1)) / V
    h, h1, gh = a.state, a.state.at(J * V), c.room(3)
    c.call("pack_bias", a.has_b_ih, a.b_ih, a.b_hh, a.H, a.start_gi, a.start_gh, 0, J)
    c.call("to_blocked", a.h0, a.H, 1, a.H, h, V, 0, J)
    with c.loop(0, J) as j:
        column = j * V
        left = a.H - column
        for operand, W, columns, start, sums in (
            (a.x, a.W_ih, a.I, a.start_gi, a.gi),
            (a.h0, a.W_hh, a.H, a.start_gh, gh),
        ):
            for gate in range(3):
                rows, at = W.at((a.H * gate + column) * columns), gate * V
                first = start.at(column * 3 + at)
                c.call("row_times_transposed", operand, rows, left.min(V), columns, first, sums.at(at))
        tape = (array.at(column) for array in (a.h_prev, a.r, a.z, a.n, a.u))
        c.call(
            "gates_forward", gh, 1, 1, a.gi, 0, 0, h.at(column), h1.at(column), 0, left, a.what, a.y.at(column), 0,
            *tape, 0,
        )  # fmt: skip
    c.call("from_blocked", h1, V, 1, a.H, a.h_n, a.H, 0, J)


def backward_of_one_row(c: Code, a: Record) -> None:
    """The whole backward pass; the parts of D as `gates_backward` has them."""
    H, V = a.H, c.unit.lanes
    J = (H + (V - 1)) / V
    nothing = c.room(1)
    nothing.put(c.constant(0.0))
    c.either(
        a.has_dh_n > 0,
        lambda: c.call("to_blocked", a.dh_n, H, 1, H, a.carry, V, 0, J),
        lambda: c.call("zero_block_rows", a.carry, V, 1, 0, J),
    )
    with c.loop(0, J) as j:
        column = j * V
        tape = (array.at(column) for array in (a.h_prev, a.r, a.z, a.n, a.u))
        c.call(
            "gates_backward", nothing, 1, 1, a.carry.at(column), 0, a.dy.at(column), 0, *tape, 0, a.D.at(column), 0,
            J * V, H - column,
        )  # fmt: skip
    for first, W, dW, db, operand, columns, out in (
        (0, a.W_hh, a.dW_hh, a.db_hh, a.h_prev, H, a.carry),
        (1, a.W_ih, a.dW_ih, a.db_ih, a.x, a.I, a.dx),
    ):
        for part in range(first, first + 3):
            D, place = a.D.at(J * V * part), H * ((part + 2) % 3)
            more = 1 if first == 0 or part > first else 0  # to the carry, or to what the parts before have given
            with c.when(a.has_dx > 0) if out is a.dx else nullcontext():
                c.call("row_times", D, W.at(place * columns), H, columns, out, more)
            c.call("outer", D, operand, H, columns, dW.at(place * columns))
            with c.when(a.has_b_ih > 0):
                c.call("from_blocked", D, V, 1, H, db.at(place), H, 0, J)
    c.call("from_blocked", a.carry, V, 1, H, a.dh0, H, 0, J)


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


def _over_columns(c: Code, write: Callable[[Value, int, Value | None], None]) -> None:
    """write(column, vectors, mask) for all of c.columns: some vectors at once, the rest one by one."""
    V = c.unit.lanes
    wide = c.columns / (AT_ONCE * V) * (AT_ONCE * V)
    with c.loop(0, wide, AT_ONCE * V) as k:
        write(k, AT_ONCE, None)
    with c.loop(wide, c.columns, V) as k:
        c.masked(c.columns - k, lambda mask: write(k, 1, mask))


def _row_times(unit: Unit) -> None:
    """out = a @ W, or out += a @ W where `more` is not zero: a (rows,), out (columns,)."""
    V = unit.lanes
    with unit.function("row_times", "*a *W rows columns *out more") as c:

        def write(k: Value, groups: int, mask: Value | None) -> None:
            chains, nothing = chains_of(unit, groups), c.constant(0.0)
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
            for g, total in enumerate(sum_chains(sums, groups)):
                c.out.put(total, k + g * V, mask)

        _over_columns(c, write)


def _outer(unit: Unit) -> None:
    """out[i, k] = left[i] * right[k]: left (rows,), right (columns,)."""
    V = unit.lanes
    with unit.function("outer", "*left *right rows columns *out") as c:

        def write(k: Value, groups: int, mask: Value | None) -> None:
            right = [c.right.vector(k + g * V, mask) for g in range(groups)]
            with c.loop(0, c.rows) as row:
                left, out = c.splat(c.left.load(row)), c.out.at(row * c.columns + k)
                for g, value in enumerate(right):
                    out.put(left * value, g * V, mask)

        _over_columns(c, write)
