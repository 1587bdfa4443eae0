"""Copies into the formats that the tiles want: gate panels for the right operand, blocks of columns for either.

gate panels   [unit block][k][gate r, z, n][V]     from a weight (3H, K), transposed in registers
blocked       [column block][row][V]               from a matrix; what is missing of the last block is zero
"""

from __future__ import annotations

from gru_xp_cpu.emit.code import Code, Unit, Value

from .record import Record

__all__ = ["pack_gates", "packing"]


def packing(unit: Unit) -> None:
    """All functions of this page."""
    _pack_panels(unit)
    _pack_bias(unit)
    _to_blocked(unit)
    _from_blocked(unit)
    _zero_block_rows(unit)
    _copy_valid(unit)


def pack_gates(c: Code, a: Record, j0: Value, j1: Value) -> None:
    """Write: what both products of the gates need of the unit blocks j0 to j1."""
    c.call("pack_panels", a.W_ih, a.H, a.I, a.panels_ih, j0, j1)
    c.call("pack_panels", a.W_hh, a.H, a.H, a.panels_hh, j0, j1)
    c.call("pack_bias", a.has_b_ih, a.b_ih, a.b_hh, a.H, a.start_gi, a.start_gh, j0, j1)


def _pack_panels(unit: Unit) -> None:
    """The panels of unit blocks j0 to j1 of W (3H, K)."""
    V = unit.lanes
    with (
        unit.function("pack_panels", "*W H K *panels j0 j1") as c,
        c.loop(c.j0, c.j1) as j,
        c.loop(0, 3) as gate,
        c.loop(0, c.K, V) as k,
    ):
        source = c.W.at((gate * c.H + j * V) * c.K + k)
        target = c.panels.at(((j * c.K + k) * 3 + gate) * V)
        units, depth = (c.H - j * V).min(V), (c.K - k).min(V)

        def square() -> None:
            rows = [source.vector(c.K * i) for i in range(V)]
            bit = V // 2
            while bit:
                low = [i if not i & bit else i - bit + V for i in range(V)]
                high = [i + bit if not i & bit else i + V for i in range(V)]
                for i in range(V):
                    if not i & bit:
                        a, b = rows[i], rows[i + bit]
                        rows[i], rows[i + bit] = c.shuffle(a, b, low), c.shuffle(a, b, high)
                bit //= 2
            for i, row in enumerate(rows):
                target.put(row, i * 3 * V)

        def rest() -> None:
            with c.loop(0, depth) as i:
                target.put(c.constant(0.0), i * 3 * V)
                with c.loop(0, units) as lane:
                    target.store(source.load(lane * c.K + i), i * 3 * V + lane)

        c.either((units + depth).equals(2 * V), square, rest)


def _pack_bias(unit: Unit) -> None:
    """The biases [unit block][gate][V]: to `gi` what the projection starts from, to `gh` what the recurrent sums do.

    The arguments of r and z take the sum of both biases; the candidate's parts stay apart, the reset gate is between
    them.
    """
    V = unit.lanes
    with unit.function("pack_bias", "there *b_ih *b_hh H *gi *gh j0 j1") as c, c.loop(c.j0, c.j1) as j:
        for gate in range(3):
            c.gi.put(c.constant(0.0), (j * 3 + gate) * V)
            c.gh.put(c.constant(0.0), (j * 3 + gate) * V)
        with c.when(c.there > 0), c.loop(0, (c.H - j * V).min(V)) as lane:
            b_ih, b_hh, at = c.b_ih, c.b_hh, j * V + lane
            for gate in range(2):
                both = b_ih.load(c.H * gate + at) + b_hh.load(c.H * gate + at)
                c.gi.store(both, (j * 3 + gate) * V + lane)
            c.gi.store(b_ih.load(c.H * 2 + at), (j * 3 + 2) * V + lane)
            c.gh.store(b_hh.load(c.H * 2 + at), (j * 3 + 2) * V + lane)


def _to_blocked(unit: Unit) -> None:
    """Column blocks j0 to j1 of a matrix, `row` from row to row and `columns` wide, to `block` apart."""
    V = unit.lanes
    with (
        unit.function("to_blocked", "*source row rows columns *target block j0 j1") as c,
        c.loop(0, c.rows) as m,
        c.loop(c.j0, c.j1) as j,
    ):
        at, place = m * c.row + j * V, j * c.block + m * V
        c.masked(c.columns - j * V, lambda mask: c.target.put(c.source.vector(at, mask), place))


def _from_blocked(unit: Unit) -> None:
    """The way back."""
    V = unit.lanes
    with (
        unit.function("from_blocked", "*source block rows columns *target row j0 j1") as c,
        c.loop(0, c.rows) as m,
        c.loop(c.j0, c.j1) as j,
    ):
        at, place = m * c.row + j * V, j * c.block + m * V
        c.masked(c.columns - j * V, lambda mask: c.target.put(c.source.vector(place), at, mask))


def _zero_block_rows(unit: Unit) -> None:
    """Zeros in some rows of the column blocks j0 to j1."""
    V = unit.lanes
    with (
        unit.function("zero_block_rows", "*target block rows j0 j1") as c,
        c.loop(c.j0, c.j1) as j,
        c.loop(0, c.rows) as m,
    ):
        c.target.put(c.constant(0.0), j * c.block + m * V)


def _copy_valid(unit: Unit) -> None:
    """Columns of a matrix, zero where a row is not valid."""
    V = unit.lanes
    with (
        unit.function("copy_valid", "*source source_row rows columns @valid *target target_row") as c,
        c.loop(0, c.rows) as m,
    ):
        keep = c.bytes_at(c.valid).load(m)
        with c.loop(0, c.columns, V) as k:

            def write(mask: Value | None) -> None:
                c.either(
                    keep > 0,
                    lambda: c.target.put(c.source.vector(m * c.source_row + k, mask), m * c.target_row + k, mask),
                    lambda: c.target.put(c.constant(0.0), m * c.target_row + k, mask),
                )

            c.masked(c.columns - k, write)
