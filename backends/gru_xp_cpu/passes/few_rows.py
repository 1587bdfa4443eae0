"""One step of a few rows, with the weights as they lie: to pack them first would take longer than the whole step.

W (rows, columns) is a plain matrix whose last vectors may be masked. The units are dealt out to the threads, which meet
once in the backward pass, between the gates' gradients and what is made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from gru_xp_cpu.emit.code import Code, Pointer, Unit, Value
from gru_xp_cpu.threads.barrier import Crew

from .record import Record
from .tiles import chains_of, sum_chains
from .tiling import share

__all__ = ["backward_of_few_rows", "few_rows", "forward_of_few_rows", "products_of_few_rows"]

#: how many are few
FEW = 8
#: vectors of columns at once
AT_ONCE = 4


def few_rows(c: Code, a: Record) -> Value:
    """Whether a call is such a step, without padding and resets."""
    return a.T.equals(1) & (a.N > 0) & (a.N <= FEW) & a.has_valid.equals(0) & a.has_cut.equals(0)


def forward_of_few_rows(c: Code, a: Record) -> None:
    """The whole forward pass."""
    V, N = c.unit.lanes, a.N
    J, between = (a.H + (V - 1)) / V, N * V
    h, h1, gi, gh = a.state, a.state.at(J * between), c.room(3 * FEW), c.room(3 * FEW)
    crew = Crew(c, a.wait)
    with crew.shares() as part:
        j0, j1 = share(J, part, c.parts)
        c.call("pack_bias", a.has_b_ih, a.b_ih, a.b_hh, a.H, a.start_gi, a.start_gh, j0, j1)
        c.call("to_blocked", a.h0, a.H, N, a.H, h, between, j0, j1)
        with c.loop(j0, j1) as j:
            column, place = j * V, j * between
            left = a.H - column
            for operand, W, columns, start, sums in (
                (a.x, a.W_ih, a.I, a.start_gi, gi),
                (a.h0, a.W_hh, a.H, a.start_gh, gh),
            ):
                for gate in range(3):
                    rows, at = W.at((a.H * gate + column) * columns), gate * V
                    given = (operand, N, rows, left.min(V), columns, start.at(column * 3 + at), sums.at(at))
                    _by_count(c, N, "rows_times_transposed", *given)
            tape = (array.at(column) for array in (a.h_prev, a.r, a.z, a.n, a.u))
            c.call(
                "gates_forward", gh, N, 1, gi, 3 * V, 0, h.at(place), h1.at(place), 0, left, a.what, a.y.at(column),
                a.H, *tape, a.H,
            )  # fmt: skip
        c.call("from_blocked", h1, between, N, a.H, a.h_n, a.H, j0, j1)
    crew.finish()


def backward_of_few_rows(c: Code, a: Record) -> None:
    """The whole backward pass; the parts of D as `gates_backward` has them."""
    H, N, V = a.H, a.N, c.unit.lanes
    J, between = (H + (V - 1)) / V, N * V
    nothing = c.room(FEW)
    for i in range(FEW):
        nothing.put(c.constant(0.0), i * V)
    crew = Crew(c, a.wait)
    with crew.shares() as part:
        j0, j1 = share(J, part, c.parts)
        c.either(
            a.has_dh_n > 0,
            lambda: c.call("to_blocked", a.dh_n, H, N, H, a.carry, between, j0, j1),
            lambda: c.call("zero_block_rows", a.carry, between, N, j0, j1),
        )
        with c.loop(j0, j1) as j:
            column, place = j * V, j * between
            tape = (array.at(column) for array in (a.h_prev, a.r, a.z, a.n, a.u))
            c.call(
                "gates_backward", nothing, N, 1, a.carry.at(place), 0, a.dy.at(column), a.dy_row, *tape, H,
                a.D.at(place), 0, J * between, H - column,
            )  # fmt: skip
    wide = AT_ONCE * V
    with crew.shares() as part:
        j0, j1 = share(J, part, c.parts)
        for first, W, dW, db, operand, columns, out in (
            (0, a.W_hh, a.dW_hh, a.db_hh, a.h_prev, H, a.carry),
            (1, a.W_ih, a.dW_ih, a.db_ih, a.x, a.I, a.dx),
        ):
            k0, k1 = share((columns + (wide - 1)) / wide, part, c.parts)
            k0, k1 = k0 * wide, (k1 * wide).min(columns)
            # a state's columns lie in blocks, those of dx in rows
            target, row, group = (out.at(k0), columns, V) if out is a.dx else (out.at(k0 * N), V, between)
            for part_of_D in range(first, first + 3):
                D, place = a.D.at(J * between * part_of_D), H * ((part_of_D + 2) % 3)
                more = (
                    1 if first == 0 or part_of_D > first else 0
                )  # to the carry, or to what the parts before have given
                with c.when(a.has_dx > 0) if out is a.dx else nullcontext():
                    given = (D, N, W.at(place * columns + k0), H, columns, k1 - k0, target, row, group, more)
                    _by_count(c, N, "rows_times", *given)
                _by_count(c, N, "outer", D, N, operand, j0, j1, H, columns, dW.at(place * columns))
                with c.when(a.has_b_ih > 0), c.loop(j0, j1) as j:
                    total = a.totals.at(j * V)
                    c.call("sum_rows", D.at(j * between), N, total, 0)
                    c.call("write_rows", total, 1, 1, db.at(place + j * V), 0, H - j * V)
            if out is a.carry:
                c.call("from_blocked", a.carry, between, N, H, a.dh0, H, k0 / V, (k1 + (V - 1)) / V)
    crew.finish()


def products_of_few_rows(unit: Unit, kind: str) -> None:
    """All functions of this page that a kind needs, each for one row and for some at once."""
    for rows in (1, SOME[unit.target.registers]):
        if kind == "forward":
            _rows_times_transposed(unit, rows)
        else:
            _rows_times(unit, rows)
            _outer(unit, rows)


#: rows at once by the number of registers
SOME = {32: 4, 16: 2}


def _by_count(c: Code, N: Value, name: str, *arguments: object) -> None:
    c.either(N.equals(1), lambda: c.call(f"{name}_1", *arguments), lambda: c.call(f"{name}_some", *arguments))


def _name(name: str, rows: int) -> str:
    return f"{name}_{1 if rows == 1 else 'some'}"


def _rows_times_transposed(unit: Unit, at_once: int) -> None:
    """dst = first + a @ W.T, one vector for each row: a (n, columns), and no more rows of W than a vector has lanes.

    A row of dst is three vectors.
    """
    V = unit.lanes
    together = min(V, unit.target.registers // 2 // at_once if unit.target.registers == 32 else 4)
    name = _name("rows_times_transposed", at_once)
    with unit.function(name, "*a n *W rows columns *first *dst") as c:
        place = c.room(V * (1 if at_once == 1 else FEW))
        whole, rest = c.columns / V * V, c.columns % V
        with c.loop(0, V, together) as r, c.loop(0, c.n, at_once) as m:
            weights = [c.W.at((r + i).min(c.rows - 1) * c.columns) for i in range(together)]
            numbers = [(m + i).min(c.n - 1) for i in range(at_once)]
            rows = [c.a.at(number * c.columns) for number in numbers]
            sums = [[c.variable(c.constant(0.0)) for _ in weights] for _ in rows]

            def multiply(k: Value, mask: Value | None) -> None:
                operands = [row.vector(k, mask) for row in rows]
                for i, weight in enumerate(weights):
                    w = weight.vector(k, mask)
                    for a, totals in zip(operands, sums, strict=True):
                        totals[i].set(c.fma(w, a, totals[i].get()))

            with c.loop(0, whole, V) as k:
                multiply(k, None)
            with c.when(rest > 0):
                multiply(whole, c.first_lanes(rest))
            for number, totals in zip(numbers, sums, strict=True):
                for i, total in enumerate(totals):
                    place.put(total.get(), (number * V + r + i) * V)
        with c.loop(0, c.n) as m:
            vectors = [place.vector((m * V + i) * V) for i in range(V)]
            c.dst.put(c.first.vector() + _sums_of_lanes(c, vectors), m * (3 * V))


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


def _rows_times(unit: Unit, at_once: int) -> None:
    """out = D @ W, or out += D @ W where `more` is not zero: D of n rows in the blocked format, W (rows, columns).

    W's rows are `stride` apart, those of out `row`, and its vectors `group`.
    """
    V = unit.lanes
    arguments = "*D n *W rows stride columns *out row group more"
    with unit.function(_name("rows_times", at_once), arguments) as c:
        between = c.n * V

        def write(k: Value, groups: int, mask: Value | None) -> None:
            with c.loop(0, c.n, at_once) as m:
                some([(m + i).min(c.n - 1) for i in range(at_once)], k, groups, mask)

        def some(numbers: list[Value], k: Value, groups: int, mask: Value | None) -> None:
            count = at_once * groups
            chains, nothing = chains_of(unit, count), c.constant(0.0)
            sums = [c.variable(nothing) for _ in range(count * chains)]
            places = [c.out.at(number * c.row + (k / V + g) * c.group) for number in numbers for g in range(groups)]
            for place, total in zip(places, sums, strict=False):
                total.set(c.select(c.more > 0, place.vector(0, mask), nothing))

            def multiply(D: Pointer, row: Value, lane: Value, chain: int) -> None:
                W = c.W.at(row * c.stride + k)
                weights = [W.vector(g * V, mask) for g in range(groups)]
                for i, number in enumerate(numbers):
                    d = c.splat(D.load(number * V + lane))
                    for g, weight in enumerate(weights):
                        total = sums[chain * count + i * groups + g]
                        total.set(c.fma(weight, d, total.get()))

            with c.loop(0, c.rows, V) as first:
                D, lanes = c.D.at(first / V * between), (c.rows - first).min(V)
                whole = lanes / chains * chains
                with c.loop(0, whole, chains) as lane:
                    for i in range(chains):
                        multiply(D, first + lane + i, lane + i, i)
                with c.loop(whole, lanes) as lane:
                    multiply(D, first + lane, lane, 0)
            for place, value in zip(places, sum_chains(sums, count), strict=True):
                place.put(value, 0, mask)

        _over_columns(c, write)


def _outer(unit: Unit, at_once: int) -> None:
    """out = D.T @ right in the rows of the blocks j0 to j1, `rows` in all: D blocked, right (n, columns)."""
    V = unit.lanes
    with unit.function(_name("outer", at_once), "*D n *right j0 j1 rows columns *out") as c:
        between = c.n * V

        def write(k: Value, groups: int, mask: Value | None) -> None:
            only = [c.right.vector(k + g * V, mask) for g in range(groups)] if at_once == 1 else []
            with c.loop(c.j0, c.j1) as j, c.loop(0, (c.rows - j * V).min(V)) as lane:
                D, out = c.D.at(j * between + lane), c.out.at((j * V + lane) * c.columns + k)
                if at_once == 1:
                    d = c.splat(D.load())
                    values = [d * right for right in only]
                else:
                    sums = [c.variable(c.constant(0.0)) for _ in range(groups)]
                    with c.loop(0, c.n) as m:
                        d, right = c.splat(D.load(m * V)), c.right.at(m * c.columns + k)
                        for g, total in enumerate(sums):
                            total.set(c.fma(d, right.vector(g * V, mask), total.get()))
                    values = [total.get() for total in sums]
                for g, value in enumerate(values):
                    out.put(value, g * V, mask)

        _over_columns(c, write)
