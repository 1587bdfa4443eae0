"""What stands between the products: the gates and their gradients, from a tile's sums to memory.

The sums are a tile's `dst`, [row][group][w][V]. Scratch is in the blocked format [column block][row][V], so its rows
are V apart and its groups `..._group` apart; the arrays of the tape are plain matrices whose last vector may be
masked: `left` is the number of columns from the first group's on.
"""

from __future__ import annotations

from gru_xp_cpu.emit.code import LINE, Code, Pointer, Unit, Value

from .activations import sigmoid, tanh
from .fields import GATES, STATES, STEP

__all__ = ["pointwise"]


def pointwise(unit: Unit) -> None:
    """All functions of this page."""
    _gates_forward(unit)
    _gates_backward(unit)
    _add_to_carry(unit)
    _add_weights(unit)
    _write_rows(unit)
    _sum_rows(unit)
    _fetch(unit)


def _fetch(unit: Unit) -> None:
    """Have some columns of some rows fetched into the nearest cache, while a product runs whose sums will meet them."""
    with unit.function("fetch", "*at row rows columns") as c, c.loop(0, c.rows) as m:
        line = c.at.at(m * c.row)
        with c.loop(0, c.columns, LINE // unit.size) as k:
            line.at(k).prefetch()
        line.at(c.columns - 1).prefetch()


def _gates_forward(unit: Unit) -> None:
    """r, z, u, n and h' = (1 - z) n + z h of some rows and groups of units; `what` says what is written.

    First all r and z, in the place of the sums, then all n: so that what waits for each other is half as long, and the
    processor, which looks some hundreds of instructions ahead, works on twice as many rows at once.
    """
    V = unit.lanes
    arguments = "*sums rows groups *gi gi_row gi_group *h *h1 h_group left what *y y_row *h_prev *r *z *n *u row"
    with unit.function("gates_forward", arguments) as c:
        step, states, gates = ((c.what & bit) > 0 for bit in (STEP, STATES, GATES))
        with c.loop(0, c.rows) as m, c.loop(0, c.groups) as g:
            gh, gi = c.sums.at((m * c.groups + g) * (3 * V)), c.gi.at(m * c.gi_row + g * c.gi_group)
            for at in (0, V):
                gh.put(sigmoid(c, gi.vector(at) + gh.vector(at)), at)

        def write(mask: Value | None) -> None:
            with c.loop(0, c.rows) as m:
                gh = c.sums.at((m * c.groups + g) * (3 * V))
                gi = c.gi.at(m * c.gi_row + g * c.gi_group)
                place = g * c.h_group + m * V
                h = c.h.vector(place)
                r, z, u = (gh.vector(at) for at in (0, V, 2 * V))
                n = tanh(c, c.fma(r, u, gi.vector(2 * V)))
                with c.when(step):
                    h1 = c.fma(1.0 - z, n, z * h)
                    c.h1.put(h1, place)
                    c.y.put(h1, m * c.y_row + g * V, mask)
                at = m * c.row + g * V
                with c.when(states):
                    c.h_prev.put(h, at, mask)
                with c.when(gates):
                    for array, value in ((c.r, r), (c.z, z), (c.n, n), (c.u, u)):
                        array.put(value, at, mask)

        with c.loop(0, c.groups) as g:
            c.masked(c.left - g * V, write)


def _gates_backward(unit: Unit) -> None:
    """The gates' gradients of some rows and groups from g = sums + carry + dy, and the new carry z g.

    D gets four parts, `part` apart, in the order da_n r, da_r, da_z, da_n: dgh is the first three, dgi the last three.
    """
    V = unit.lanes
    arguments = "*sums rows groups *carry carry_group *dy dy_row *h *r *z *n *u row *D D_group part left"
    with unit.function("gates_backward", arguments) as c, c.loop(0, c.groups) as group:

        def write(mask: Value | None) -> None:
            with c.loop(0, c.rows) as m:
                at, place = m * c.row + group * V, group * c.carry_group + m * V
                h, r, z, n, u = (array.vector(at, mask) for array in (c.h, c.r, c.z, c.n, c.u))
                g = c.sums.vector((m * c.groups + group) * V) + c.carry.vector(place)
                g = g + c.dy.vector(m * c.dy_row + group * V, mask)
                c.carry.put(z * g, place)
                rest = (1.0 - z) * g
                da_n = rest * c.fma(-1.0 * n, n, c.constant(1.0))
                da_z = (h - n) * z * rest
                da_r = da_n * u * r * (1.0 - r)
                D = c.D.at(group * c.D_group + m * V)
                for i, value in enumerate((da_n * r, da_r, da_z, da_n)):
                    D.put(value, c.part * i)

        c.masked(c.left - group * V, write)


def _add_to_carry(unit: Unit) -> None:
    """carry += sums, for some rows and groups."""
    V = unit.lanes
    with (
        unit.function("add_to_carry", "*sums rows groups *carry carry_group") as c,
        c.loop(0, c.groups) as g,
        c.loop(0, c.rows) as m,
    ):
        place = g * c.carry_group + m * V
        c.carry.put(c.carry.vector(place) + c.sums.vector((m * c.groups + g) * V), place)


def _columns(c: Code, out: Pointer, more: Value | None, V: int) -> None:
    """out[row, group] = sums, or += where `more` is not zero; `c` has sums, rows, groups, out_row and left."""
    with c.loop(0, c.groups) as g:

        def write(mask: Value | None) -> None:
            with c.loop(0, c.rows) as m:
                value, at = c.sums.vector((m * c.groups + g) * V), m * c.out_row + g * V
                if more is None:
                    out.put(value, at, mask)
                else:
                    c.either(
                        more > 0,
                        lambda: out.put(value + out.vector(at, mask), at, mask),
                        lambda: out.put(value, at, mask),
                    )

        c.masked(c.left - g * V, write)


def _write_rows(unit: Unit) -> None:
    """out = sums."""
    with unit.function("write_rows", "*sums rows groups *out out_row left") as c:
        _columns(c, c.out, None, unit.lanes)


def _add_weights(unit: Unit) -> None:
    """out = sums, or out += sums."""
    with unit.function("add_weights", "*sums rows groups *out out_row left more") as c:
        _columns(c, c.out, c.more, unit.lanes)


def _sum_rows(unit: Unit) -> None:
    """The sum over rows of one block, and over what stands in `total`, to `total`."""
    V = unit.lanes
    with unit.function("sum_rows", "*A rows *total more") as c:
        totals = [c.variable(c.constant(0.0)) for _ in range(4)]
        with c.when(c.more > 0):
            totals[0].set(c.total.vector())
        whole = c.rows - c.rows % 4
        with c.loop(0, whole, 4) as m:
            for i, total in enumerate(totals):
                total.set(total.get() + c.A.vector((m + i) * V))
        with c.loop(whole, c.rows) as m:
            totals[0].set(totals[0].get() + c.A.vector(m * V))
        a, b, d, e = (total.get() for total in totals)
        c.total.put((a + b) + (d + e))
