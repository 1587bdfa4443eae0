"""Loops over tiles: how rows and groups of columns are dealt out to the tiles of a table, evenly.

Nine rows are 5 + 4 rather than 8 + 1 and four groups 2 + 2 rather than 3 + 1: a small tile waits for its own sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gru_xp_cpu.emit.code import Code, Pointer, Value
from gru_xp_cpu.threads.barrier import MOST

from .shapes import Shapes

__all__ = ["Grid", "Split", "Splits", "Tile", "chunks", "cover", "product", "runs", "share", "split"]


class Tile(NamedTuple):
    """Where one tile is."""

    row: Value
    rows: Value
    group: Value
    groups: Value
    place: Value  # in its table
    following: Value  # the first group of the panels that will be read next
    turn: Value  # how many tiles have read these panels before
    before: Value  # how many other panels have been read before


def share(whole: Value, part: Value, parts: Value) -> tuple[Value, Value]:
    """Where a part of some whole begins and ends."""
    return whole * part / parts, whole * (part + 1) / parts


class Grid:
    """The batch and the blocks of units, dealt out: `unit_parts` shares side by side, the rest over the batch."""

    def __init__(self, c: Code, N: Value, J: Value, parts: Value, unit_parts: Value):
        self._J, self._unit_parts, self._row_parts = J, unit_parts, parts / unit_parts
        self._bounds = c.room_for_integers(4 * MOST)  # divisions are slow: once for all steps
        with c.loop(0, parts) as part:
            rows = share(N, part / unit_parts, self._row_parts)
            units = share(J, part % unit_parts, unit_parts)
            for i, bound in enumerate((*rows, *units)):
                self._bounds.store(bound, part * 4 + i)

    def of(self, part: Value) -> tuple[Value, Value, Value, Value]:
        """Where the rows and the blocks of a share begin and end."""
        n0, n1, j0, j1 = (self._bounds.load(part * 4 + i) for i in range(4))
        return n0, n1, j0, j1

    def own_blocks(self, part: Value, piece: Any = 0, pieces: int = 1) -> tuple[Value, Value]:
        """Where what a share gets begins and ends if the blocks, or a piece of them, are dealt out once to all shares.

        They are some of its own: what a thread has made itself lies in its caches, another's would have to come over.
        """
        rank = part % self._unit_parts * self._row_parts + part / self._unit_parts
        return share(self._J, rank * pieces + piece, self._unit_parts * self._row_parts * pieces)


class Split(NamedTuple):
    """How rows and blocks go into tiles: into so many, each with that many at least, the first ones with one more."""

    rows: Value
    rows_least: Value
    rows_more: Value
    turns: Value
    groups_least: Value
    groups_more: Value


def split(c: Code, shapes: Shapes, rows: Value, blocks: Value, limit: int = 0) -> Split:
    """As evenly as tiles allow; `limit` is the most groups of a tile."""
    count = (rows + (shapes.rows - 1)) / shapes.rows
    least = rows / count.max(1)
    more = rows - least * count
    largest = least + c.select(more > 0, c.integer(1), 0)
    widest = c.integer(shapes.groups[-1])
    for fewer in range(shapes.rows - 1, 0, -1):
        widest = c.select(largest <= fewer, c.integer(shapes.groups[fewer - 1]), widest)
    if limit:
        widest = widest.min(limit)
    turns = (blocks + widest - 1) / widest
    groups = blocks / turns.max(1)
    return Split(count, least, more, turns, groups, blocks - groups * turns)


class Splits:
    """Those of the shares of a grid: divisions are slow, so once for all steps."""

    def __init__(self, c: Code, shapes: Shapes, grid: Grid, parts: Value):
        self._numbers = c.room_for_integers(len(Split._fields) * MOST)
        with c.loop(0, parts) as part:
            n0, n1, j0, j1 = grid.of(part)
            for i, number in enumerate(split(c, shapes, n1 - n0, j1 - j0)):
                self._numbers.store(number, part * len(Split._fields) + i)

    def of(self, part: Value) -> Split:
        """How the rows and blocks of a share go into tiles."""
        return Split(*(self._numbers.load(part * len(Split._fields) + i) for i in range(len(Split._fields))))


def cover(
    c: Code,
    shapes: Shapes,
    into: Split,
    j0: Any,
    body: Callable[[Tile], None],
    *,
    backwards: Any = 0,
    only_first: bool = False,
) -> None:
    """body(tile) for every tile of some rows and of the blocks from j0 on, or for those that read the first panels.

    Groups outside, rows inside. Where the same panels are read again and again, every other time should go backwards:
    it begins with what the nearest cache still holds, while always the same order would find nothing there.
    """
    j0, back = c.integer(j0), c.integer(backwards) > 0
    j1 = j0 + into.turns * into.groups_least + into.groups_more
    most, turns = max(shapes.groups), into.turns.min(1) if only_first else into.turns
    with c.when(into.rows > 0), c.loop(0, turns) as i:
        index = c.select(back, into.turns - 1 - i, i)
        group = j0 + index * into.groups_least + index.min(into.groups_more)
        groups = into.groups_least + c.select(index < into.groups_more, c.integer(1), 0)
        following = (group + c.select(back, -1 * groups, groups)).max(j0).min(j1 - groups)
        with c.loop(0, into.rows) as turn:
            row = turn * into.rows_least + turn.min(into.rows_more)
            take = into.rows_least + c.select(turn < into.rows_more, c.integer(1), 0)
            body(Tile(row, take, group, groups, (take - 1) * most + groups - 1, following, turn, i))


def product(
    c: Code,
    table: str,
    shapes: Shapes,
    tile: Tile,
    left: tuple[Pointer, Any, Any],
    K: Value,
    panels: Pointer,
    first: Pointer,
    dst: Pointer,
    *,
    first_row: Any = 0,
    span: tuple[Value, Value] | None = None,
) -> None:
    """Run a tile: `left` is A, a_row and a_block, see `tiles`; `panels` are those of all groups, one behind the other.

    The first four tiles that read some panels fetch the following ones, a quarter each, or as much of it as their sums
    are long. `span` is the column block that the sums begin with and how many columns they go over, if not all K.
    """
    (A, a_row, a_block), lanes = left, c.unit.lanes
    block, count = span or (c.integer(0), K)
    between = K * (shapes.width * lanes)
    panel = panels.at(tile.group * between + block * (shapes.width * lanes * lanes))
    later = panels.at(tile.following * between + tile.turn.min(3) * (tile.groups * between / 4))
    c.call_from(
        table, tile.place, A.at(block * a_block), a_row, a_block, count, panel, between, first, first_row, dst, later
    )


def chunks(c: Code, rows: Value, size: int, body: Callable[[Value, Value], None]) -> None:
    """body(row, rows) for runs of at most `size` rows, evenly."""
    with c.when(rows > 0):
        count = (rows + (size - 1)) / size
        with c.loop(0, count) as i:
            first, last = share(rows, i, count)
            body(first, last - first)


def runs(
    c: Code, N: Value, n0: Value, n1: Value, first: Value, last: Value, size: int, body: Callable[[Value, Value], None]
) -> None:
    """body(row, rows) for the rows n0 to n1 of N of the steps `first` to `last`, at most `size` at once."""
    whole = (n1 - n0).equals(N)  # then the rows of all steps lie in one piece
    count, length = c.select(whole, c.integer(1), last - first), c.select(whole, (last - first) * N, n1 - n0)
    with c.loop(0, count) as run:
        begin = (first + run) * N + n0
        chunks(c, length, size, lambda m, rows: body(begin + m, rows))
