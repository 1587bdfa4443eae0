"""One step of a few rows: both passes once more, with the weights as they are instead of packed.

Packing reads and writes all weights, and takes longer than a step of so few rows. Without it such a step is faster by
these factors (one thread, float32, AVX-512 with 2 MiB of L2, medians of alternating calls; I = H, inference and
forward + backward): at H = 512 3.1 and 2.1 for N = 1, 2.8 and 2.0 for N = 4, 2.2 and 1.6 for N = 8; at H = 128 2.0 and
1.7, 1.3 and 1.4, 1.1 and 1.2. With N = 16, on two threads: 1.4 and 1.3 at H = 512, 0.95 and 1.2 at H = 128. With
N = 32 nothing is gained.

W (rows, columns) is a plain matrix whose last vectors may be masked. The hidden units are dealt out to the threads;
there is one barrier in the backward pass, between the gates' gradients and what is computed from them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from gru_xp_cpu.emit.code import Code, Operand, Reals, Value
from gru_xp_cpu.emit.function import Function, function
from gru_xp_cpu.threads.barrier import Sections

from .packing import from_blocked, pack_bias, to_blocked, zero_block_rows
from .pointwise import gates_backward, gates_forward, sum_rows, write_rows
from .record import BackwardRecord, ForwardRecord, Record, tape
from .tiles import chains_of, sum_chains
from .tiling import share

__all__ = ["backward_of_few_rows", "few_rows", "forward_of_few_rows"]

#: how many are few
FEW = 16
#: vectors of columns at once
AT_ONCE = 4
#: rows at once by the number of registers
SOME = {32: 4, 16: 2}


def few_rows(a: Record) -> Value:
    """Whether a call is such a step, without padding and resets."""
    return a.T.equals(1) & (a.N > 0) & (a.N <= FEW) & a.has_valid.equals(0) & a.has_cut.equals(0)


def forward_of_few_rows(c: Code, a: ForwardRecord, sections: Sections) -> None:
    """The whole forward pass."""
    V, N, zero = c.module.lanes, a.N, c.integer(0)
    J, between = (a.H + (V - 1)) // V, N * V
    h, h1, gi, gh = a.state, a.state.at(J * between), c.stack_vectors(3 * FEW), c.stack_vectors(3 * FEW)
    with sections.section() as part:
        j0, j1 = share(J, part, sections.parts)
        pack_bias(c, a.has_b_ih, a.b_ih, a.b_hh, a.H, a.start_gi, a.start_gh, j0, j1)
        to_blocked(c, a.h0, a.H, N, a.H, h, between, j0, j1)
        with c.loop(j0, j1) as j:
            column, place = j * V, j * between
            left = a.H - column
            for operand, W, columns, start, sums in (
                (a.x, a.W_ih, a.I, a.start_gi, gi),
                (a.h0, a.W_hh, a.H, a.start_gh, gh),
            ):
                for gate in range(3):
                    rows, at = W.at((a.H * gate + column) * columns), gate * V
                    given = operand, N, rows, left.min(V), columns, start.at(column * 3 + at), sums.at(at)
                    _by_count(c, N, rows_times_transposed, *given)
            gates_forward(
                c, gh, N, c.integer(1), gi, c.integer(3 * V), zero, h.at(place), h1.at(place), zero, left, a.what,
                a.y.at(column), a.H, *tape(a, column), a.H,
            )  # fmt: skip
        from_blocked(c, h1, between, N, a.H, a.h_n, a.H, j0, j1)
    sections.finish()


def backward_of_few_rows(c: Code, a: BackwardRecord, sections: Sections) -> None:
    """The whole backward pass; the parts of D as `gates_backward` has them."""
    H, N, V, zero, one = a.H, a.N, c.module.lanes, c.integer(0), c.integer(1)
    J, between = (H + (V - 1)) // V, N * V
    nothing = c.stack_vectors(FEW)
    for i in range(FEW):
        nothing.store_vector(c.constant(0.0), i * V)
    with sections.section() as part:
        j0, j1 = share(J, part, sections.parts)
        c.either(
            a.has_dh_n > 0,
            lambda: to_blocked(c, a.dh_n, H, N, H, a.carry, between, j0, j1),
            lambda: zero_block_rows(c, a.carry, between, N, j0, j1),
        )
        with c.loop(j0, j1) as j:
            column, place = j * V, j * between
            gates_backward(
                c, nothing, N, one, a.carry.at(place), zero, a.dy.at(column), a.dy_row, *tape(a, column), H,
                a.D.at(place), zero, J * between, H - column,
            )  # fmt: skip
    wide = AT_ONCE * V
    with sections.section() as part:
        j0, j1 = share(J, part, sections.parts)
        for first, W, dW, db, operand, columns, blocks, out in (
            (0, a.W_hh, a.dW_hh, a.db_hh, a.h_prev, H, a.carry, a.dh0),
            (1, a.W_ih, a.dW_ih, a.db_ih, a.x, a.I, a.X, a.dx),
        ):
            k0, k1 = share((columns + (wide - 1)) // wide, part, sections.parts)
            k0, k1 = k0 * wide, (k1 * wide).min(columns)
            for part_of_D in range(first, first + 3):
                D, place = a.D.at(J * between * part_of_D), H * ((part_of_D + 2) % 3)
                # the sums go on the carry, or on those of the parts before
                more = one if first == 0 or part_of_D > first else zero
                with c.when(a.has_dx > 0) if out is a.dx else nullcontext():
                    weights, sums = W.at(place * columns + k0), blocks.at(k0 * N)
                    _by_count(c, N, rows_times, D, N, weights, H, columns, k1 - k0, sums, more)
                _by_count(c, N, outer, D, N, operand, j0, j1, H, columns, dW.at(place * columns))
                with c.when(a.has_b_ih > 0), c.loop(j0, j1) as j:
                    total = a.totals.at(j * V)
                    sum_rows(c, D.at(j * between), N, total, zero)
                    write_rows(c, total, one, one, db.at(place + j * V), zero, H - j * V)
            with c.when(a.has_dx > 0) if out is a.dx else nullcontext():
                from_blocked(c, blocks, between, N, columns, out, columns, k0 // V, (k1 + (V - 1)) // V)
    sections.finish()


def _by_count(c: Code, N: Value, called: Function[..., None], *arguments: Operand) -> None:
    """Call a function for one row, or for some at once."""
    some = SOME[c.module.target.registers]
    c.either(N.equals(1), lambda: called(c, *arguments, at_once=1), lambda: called(c, *arguments, at_once=some))


@function
def rows_times_transposed(
    c: Code, a: Reals, n: Value, W: Reals, rows: Value, columns: Value, first: Reals, dst: Reals, *, at_once: int
) -> None:
    """dst = first + a @ W.T, one vector for each row: a (n, columns), and no more rows of W than a vector has lanes.

    A row of dst is three vectors.
    """
    V, registers = c.module.lanes, c.module.target.registers
    together = min(V, registers // 2 // at_once if registers == 32 else 4)
    place = c.stack_vectors(V * (1 if at_once == 1 else FEW))
    whole, rest = columns // V * V, columns % V
    with c.loop(0, V, together) as r, c.loop(0, n, at_once) as m:
        weights = [W.at((r + i).min(rows - 1) * columns) for i in range(together)]
        numbers = [(m + i).min(n - 1) for i in range(at_once)]
        lines = [a.at(number * columns) for number in numbers]
        sums = [[c.variable(c.constant(0.0)) for _ in weights] for _ in lines]

        def multiply(k: Value, mask: Value | None) -> None:
            operands = [line.load_vector(k, mask) for line in lines]
            for i, weight in enumerate(weights):
                w = weight.load_vector(k, mask)
                for operand, totals in zip(operands, sums, strict=True):
                    totals[i].set(c.fma(w, operand, totals[i].get()))

        with c.loop(0, whole, V) as k:
            multiply(k, None)
        with c.when(rest > 0):
            multiply(whole, c.first_lanes(rest))
        for number, totals in zip(numbers, sums, strict=True):
            for i, total in enumerate(totals):
                place.store_vector(total.get(), (number * V + r + i) * V)
    with c.loop(0, n) as m:
        vectors = [place.load_vector((m * V + i) * V) for i in range(V)]
        dst.store_vector(first.load_vector() + _sums_of_lanes(c, vectors), m * (3 * V))


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


def _over_columns(c: Code, columns: Value, write: Callable[[Value, int, Value | None], None]) -> None:
    """write(column, vectors, mask) for all columns: some vectors at once, the rest one by one."""
    V = c.module.lanes
    wide = columns // (AT_ONCE * V) * (AT_ONCE * V)
    with c.loop(0, wide, AT_ONCE * V) as k:
        write(k, AT_ONCE, None)
    with c.loop(wide, columns, V) as k:
        c.masked(columns - k, lambda mask: write(k, 1, mask))


@function
def rows_times(
    c: Code, D: Reals, n: Value, W: Reals, rows: Value, stride: Value, columns: Value, out: Reals, more: Value, *,
    at_once: int,
) -> None:  # fmt: skip
    """out = D @ W, or out += D @ W where `more` is not zero: both of n rows in column blocks, W (rows, columns).

    W's rows are `stride` apart.
    """
    V = c.module.lanes
    between = n * V

    def write(k: Value, groups: int, mask: Value | None) -> None:
        with c.loop(0, n, at_once) as m:
            some([(m + i).min(n - 1) for i in range(at_once)], k, groups, mask)

    def some(numbers: list[Value], k: Value, groups: int, mask: Value | None) -> None:
        count = at_once * groups
        chains, nothing = chains_of(c.module, count), c.constant(0.0)
        sums = [c.variable(nothing) for _ in range(count * chains)]
        places = [out.at(number * V + (k // V + g) * between) for number in numbers for g in range(groups)]
        for place, total in zip(places, sums, strict=False):
            total.set(c.select(more > 0, place.load_vector(0, mask), nothing))

        def multiply(D: Reals, row: Value, lane: Value, chain: int) -> None:
            line = W.at(row * stride + k)
            weights = [line.load_vector(g * V, mask) for g in range(groups)]
            for i, number in enumerate(numbers):
                d = c.splat(D.load(number * V + lane))
                for g, weight in enumerate(weights):
                    total = sums[chain * count + i * groups + g]
                    total.set(c.fma(weight, d, total.get()))

        with c.loop(0, rows, V) as first:
            block, lanes = D.at(first // V * between), (rows - first).min(V)
            whole = lanes // chains * chains
            with c.loop(0, whole, chains) as lane:
                for i in range(chains):
                    multiply(block, first + lane + i, lane + i, i)
            with c.loop(whole, lanes) as lane:
                multiply(block, first + lane, lane, 0)
        for place, value in zip(places, sum_chains(sums, count), strict=True):
            place.store_vector(value, 0, mask)

    _over_columns(c, columns, write)


@function
def outer(
    c: Code, D: Reals, n: Value, right: Reals, j0: Value, j1: Value, rows: Value, columns: Value, out: Reals, *,
    at_once: int,
) -> None:  # fmt: skip
    """out = D.T @ right in the rows of the blocks j0 to j1, `rows` in all: D in column blocks, right (n, columns)."""
    V = c.module.lanes
    between = n * V

    def write(k: Value, groups: int, mask: Value | None) -> None:
        only = [right.load_vector(k + g * V, mask) for g in range(groups)] if at_once == 1 else []
        with c.loop(j0, j1) as j:
            lanes = (rows - j * V).min(V)
            whole = lanes // at_once * at_once
            with c.loop(0, whole, at_once) as lane:
                some(j, lane, at_once, k, groups, mask, only)
            if at_once > 1:
                with c.loop(whole, lanes) as lane:
                    some(j, lane, 1, k, groups, mask, only)

    def some(j: Value, lane: Value, count: int, k: Value, groups: int, mask: Value | None, only: list[Value]) -> None:
        block = D.at(j * between + lane)
        if only:
            d = c.splat(block.load())
            values = [d * vector for vector in only]
        else:
            sums = [c.variable(c.constant(0.0)) for _ in range(count * groups)]
            with c.loop(0, n) as m:
                line = right.at(m * columns + k)
                vectors = [line.load_vector(g * V, mask) for g in range(groups)]
                for i in range(count):
                    d = c.splat(block.load(m * V + i))
                    for total, vector in zip(sums[i * groups :], vectors, strict=False):
                        total.set(c.fma(d, vector, total.get()))
            values = [total.get() for total in sums]
        for place, value in enumerate(values):
            target = out.at((j * V + lane + place // groups) * columns + k)
            target.store_vector(value, place % groups * V, mask)

    _over_columns(c, columns, write)
