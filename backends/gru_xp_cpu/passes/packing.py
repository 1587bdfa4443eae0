"""Copies into the layouts that tiles read: gate panels for the right operand, column blocks for either.

gate panels     [unit block][k][gate r, z, n][V]     from a weight (3H, K), transposed in registers
column blocks   [column block][row][V]               from a matrix; the last block is filled up with zeros
"""

from __future__ import annotations

from gru_xp_cpu.emit.code import Bytes, Code, Reals, Value
from gru_xp_cpu.emit.function import function

from .record import BackwardRecord, ForwardRecord

__all__ = ["copy", "copy_valid", "from_blocked", "pack_bias", "pack_gates", "to_blocked", "zero_block_rows"]


def pack_gates(c: Code, a: ForwardRecord | BackwardRecord, j0: Value, j1: Value) -> None:
    """Pack what both products of the gates need of the unit blocks j0 to j1."""
    pack_panels(c, a.W_ih, a.H, a.I, a.panels_ih, j0, j1)
    pack_panels(c, a.W_hh, a.H, a.H, a.panels_hh, j0, j1)
    pack_bias(c, a.has_b_ih, a.b_ih, a.b_hh, a.H, a.start_gi, a.start_gh, j0, j1)


@function
def pack_panels(c: Code, W: Reals, H: Value, K: Value, panels: Reals, j0: Value, j1: Value) -> None:
    """The panels of unit blocks j0 to j1 of W (3H, K)."""
    V = c.module.lanes
    with c.loop(j0, j1) as j, c.loop(0, 3) as gate, c.loop(0, K, V) as k:
        source = W.at((gate * H + j * V) * K + k)
        target = panels.at(((j * K + k) * 3 + gate) * V)
        units, depth = (H - j * V).min(V), (K - k).min(V)

        def square() -> None:
            rows = [source.load_vector(K * i) for i in range(V)]
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
                target.store_vector(row, i * 3 * V)

        def rest() -> None:
            with c.loop(0, depth) as i:
                target.store_vector(c.constant(0.0), i * 3 * V)
                with c.loop(0, units) as lane:
                    target.store(source.load(lane * K + i), i * 3 * V + lane)

        c.either((units + depth).equals(2 * V), square, rest)


@function
def pack_bias(
    c: Code, given: Value, b_ih: Reals, b_hh: Reals, H: Value, gi: Reals, gh: Reals, j0: Value, j1: Value
) -> None:
    """The biases [unit block][gate][V]: to `gi` what the projection starts from, to `gh` what the recurrent sums do.

    The arguments of r and z take the sum of both biases; the candidate's parts stay apart, the reset gate is between
    them.
    """
    V = c.module.lanes
    with c.loop(j0, j1) as j:
        for gate in range(3):
            gi.store_vector(c.constant(0.0), (j * 3 + gate) * V)
            gh.store_vector(c.constant(0.0), (j * 3 + gate) * V)
        with c.when(given > 0), c.loop(0, (H - j * V).min(V)) as lane:
            at = j * V + lane
            for gate in range(2):
                both = b_ih.load(H * gate + at) + b_hh.load(H * gate + at)
                gi.store(both, (j * 3 + gate) * V + lane)
            gi.store(b_ih.load(H * 2 + at), (j * 3 + 2) * V + lane)
            gh.store(b_hh.load(H * 2 + at), (j * 3 + 2) * V + lane)


@function
def to_blocked(
    c: Code, source: Reals, row: Value, rows: Value, columns: Value, target: Reals, block: Value, j0: Value, j1: Value
) -> None:
    """Column blocks j0 to j1 of a matrix, `row` from row to row and `columns` wide, to `block` apart."""
    V = c.module.lanes
    with c.loop(0, rows) as m, c.loop(j0, j1) as j:
        at, place = m * row + j * V, j * block + m * V
        c.masked(columns - j * V, lambda mask: target.store_vector(source.load_vector(at, mask), place))


@function
def from_blocked(
    c: Code, source: Reals, block: Value, rows: Value, columns: Value, target: Reals, row: Value, j0: Value, j1: Value
) -> None:
    """The inverse: column blocks j0 to j1, `block` apart, to a matrix, `row` from row to row and `columns` wide."""
    V = c.module.lanes
    with c.loop(0, rows) as m, c.loop(j0, j1) as j:
        at, place = m * row + j * V, j * block + m * V
        c.masked(columns - j * V, lambda mask: target.store_vector(source.load_vector(place), at, mask))


@function
def zero_block_rows(c: Code, target: Reals, block: Value, rows: Value, j0: Value, j1: Value) -> None:
    """Zeros in some rows of the column blocks j0 to j1."""
    with c.loop(j0, j1) as j, c.loop(0, rows) as m:
        target.store_vector(c.constant(0.0), j * block + m * c.module.lanes)


@function
def copy(c: Code, source: Reals, count: Value, target: Reals) -> None:
    """Numbers in a row."""
    V = c.module.lanes
    with c.loop(0, count, V) as k:
        c.masked(count - k, lambda mask: target.store_vector(source.load_vector(k, mask), k, mask))


@function
def copy_valid(
    c: Code, source: Reals, source_row: Value, rows: Value, columns: Value, valid: Bytes, target: Reals,
    target_row: Value,
) -> None:  # fmt: skip
    """Columns of a matrix, zero where a row is not valid."""
    V = c.module.lanes
    with c.loop(0, rows) as m:
        keep = valid.load(m)
        with c.loop(0, columns, V) as k:

            def write(mask: Value | None) -> None:
                c.either(
                    keep > 0,
                    lambda: target.store_vector(source.load_vector(m * source_row + k, mask), m * target_row + k, mask),
                    lambda: target.store_vector(c.constant(0.0), m * target_row + k, mask),
                )

            c.masked(columns - k, write)
