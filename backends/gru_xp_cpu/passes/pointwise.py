"""Between the products: the gates and their gradients, from a tile's sums to memory.

The sums are a tile's `dst`, [row][group][w][V]. Scratch is in column blocks, [column block][row][V], so its rows are V
apart and its groups `..._group` apart; the arrays of the tape are plain matrices whose last vector may be masked:
`left` is the number of columns from the first group on.
"""

from __future__ import annotations

from gru_xp_cpu.emit.code import Code, Reals, Value
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import LINE, SIZE
from gru_xp_cpu.emit.stored import rounded

from .activations import sigmoid, tanh
from .fields import GATES, STATES, STEP

__all__ = ["add_to_carry", "add_weights", "gates_backward", "gates_forward", "prefetch", "sum_rows", "write_rows"]


@function
def prefetch(c: Code, at: Reals, row: Value, rows: Value, columns: Value) -> None:
    """Prefetch some columns of some rows, while a product runs whose sums will meet them."""
    with c.loop(0, rows) as m:
        line = at.at(m * row)
        with c.loop(0, columns, LINE // SIZE[at.element]) as k:
            line.at(k).prefetch()
        line.at(columns - 1).prefetch()


@function
def gates_forward(
    c: Code, sums: Reals, rows: Value, groups: Value, gi: Reals, gi_row: Value, gi_group: Value, h: Reals, h1: Reals,
    h_group: Value, left: Value, what: Value, y: Reals, y_row: Value, h_prev: Reals, r: Reals, z: Reals, n: Reals,
    u: Reals, row: Value,
) -> None:  # fmt: skip
    """r, z, u, n and h' = (1 - z) n + z h of some rows and groups of units; `what` says what is written.

    First r and z of all rows, written over the sums, then n of all rows. This halves the dependency chain, so that the
    processor's out-of-order window, some hundreds of instructions, covers twice as many rows.
    """
    V = c.module.lanes
    step, states, gates = ((what & bit) > 0 for bit in (STEP, STATES, GATES))
    with c.loop(0, rows) as m, c.loop(0, groups) as g:
        gh, ih = sums.at((m * groups + g) * (3 * V)), gi.at(m * gi_row + g * gi_group)
        for at in (0, V):
            gh.store_vector(sigmoid(c, ih.load_vector(at) + gh.load_vector(at)), at)

    with c.loop(0, groups) as g:

        def write(mask: Value | None) -> None:
            with c.loop(0, rows) as m:
                gh = sums.at((m * groups + g) * (3 * V))
                ih = gi.at(m * gi_row + g * gi_group)
                place = g * h_group + m * V
                before = h.load_vector(place)
                R, Z, U = (gh.load_vector(at) for at in (0, V, 2 * V))
                N = tanh(c, c.fma(R, U, ih.load_vector(2 * V)))
                with c.when(step):
                    after = c.fma(1.0 - Z, N, Z * before)
                    h1.store_vector(rounded(c, after), place)
                    y.store_vector(after, m * y_row + g * V, mask)
                at = m * row + g * V
                with c.when(states):
                    h_prev.store_vector(before, at, mask)
                with c.when(gates):
                    for array, value in ((r, R), (z, Z), (n, N), (u, U)):
                        array.store_vector(value, at, mask)

        c.masked(left - g * V, write)


@function
def gates_backward(
    c: Code, sums: Reals, rows: Value, groups: Value, carry: Reals, carry_group: Value, dy: Reals, dy_row: Value,
    h: Reals, r: Reals, z: Reals, n: Reals, u: Reals, row: Value, D: Reals, D_group: Value, D_part: Value, left: Value,
) -> None:  # fmt: skip
    """The gates' gradients of some rows and groups from g = sums + carry + dy, and the new carry z g.

    D gets four parts, `D_part` apart, da_n r, da_r, da_z, da_n: dgh is the first three, dgi the last three.
    """
    V = c.module.lanes
    with c.loop(0, groups) as group:

        def write(mask: Value | None) -> None:
            with c.loop(0, rows) as m:
                at, place = m * row + group * V, group * carry_group + m * V
                H, R, Z, N, U = (array.load_vector(at, mask) for array in (h, r, z, n, u))
                g = sums.load_vector((m * groups + group) * V) + carry.load_vector(place)
                g = g + dy.load_vector(m * dy_row + group * V, mask)
                carry.store_vector(Z * g, place)
                rest = (1.0 - Z) * g
                da_n = rest * c.fma(-1.0 * N, N, c.constant(1.0))
                da_z = (H - N) * Z * rest
                da_r = da_n * U * R * (1.0 - R)
                parts = D.at(group * D_group + m * V)
                for i, value in enumerate((da_n * R, da_r, da_z, da_n)):
                    parts.store_vector(value, D_part * i)

        c.masked(left - group * V, write)


@function
def add_to_carry(c: Code, sums: Reals, rows: Value, groups: Value, carry: Reals, carry_group: Value) -> None:
    """carry += sums, for some rows and groups."""
    V = c.module.lanes
    with c.loop(0, groups) as g, c.loop(0, rows) as m:
        place = g * carry_group + m * V
        carry.store_vector(carry.load_vector(place) + sums.load_vector((m * groups + g) * V), place)


@function
def write_rows(c: Code, sums: Reals, rows: Value, groups: Value, out: Reals, out_row: Value, left: Value) -> None:
    """out = sums."""
    V = c.module.lanes
    with c.loop(0, groups) as g:

        def write(mask: Value | None) -> None:
            with c.loop(0, rows) as m:
                out.store_vector(sums.load_vector((m * groups + g) * V), m * out_row + g * V, mask)

        c.masked(left - g * V, write)


@function
def add_weights(
    c: Code, sums: Reals, rows: Value, groups: Value, before: Reals, out: Reals, out_row: Value, left: Value,
    more: Value,
) -> None:  # fmt: skip
    """out = sums, or out = before + sums where `more` is not zero."""
    V = c.module.lanes
    with c.loop(0, groups) as g:

        def write(mask: Value | None) -> None:
            with c.loop(0, rows) as m:
                value, at = sums.load_vector((m * groups + g) * V), m * out_row + g * V
                c.either(
                    more > 0,
                    lambda: out.store_vector(value + before.load_vector(at, mask), at, mask),
                    lambda: out.store_vector(value, at, mask),
                )

        c.masked(left - g * V, write)


@function
def sum_rows(c: Code, A: Reals, rows: Value, total: Reals, more: Value) -> None:
    """total = the sum over the rows of one block, or total += it where `more` is not zero."""
    V = c.module.lanes
    totals = [c.variable(c.constant(0.0)) for _ in range(4)]
    with c.when(more > 0):
        totals[0].set(total.load_vector())
    whole = rows - rows % 4
    with c.loop(0, whole, 4) as m:
        for i, part in enumerate(totals):
            part.set(part.get() + A.load_vector((m + i) * V))
    with c.loop(whole, rows) as m:
        totals[0].set(totals[0].get() + A.load_vector(m * V))
    a, b, d, e = (part.get() for part in totals)
    total.store_vector((a + b) + (d + e))
