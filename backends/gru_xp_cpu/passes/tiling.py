"""Tiling: rows and groups of columns are cut into tiles, evenly, and the macro-kernel loop runs over them.

Nine rows are 5 + 4 instead of 8 + 1 and four groups 2 + 2 instead of 3 + 1: a small tile waits for its own sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from gru_xp_cpu.emit.code import Code, Integer, Reals, Value
from gru_xp_cpu.emit.function import call_one_of
from gru_xp_cpu.threads.shared import MOST

from .shapes import Shapes
from .tiles import tile

__all__ = ["Partition", "Tile", "Tiling", "Tilings", "chunks", "each_tile", "multiply", "runs", "share", "tiling"]


class Tile(NamedTuple):
    """Where one tile is."""

    row: Value
    rows: Value
    group: Value
    groups: Value
    variant: Value  # of `Shapes.variants`
    next_group: Value  # the first group of the panels that will be read next
    repeat: Value  # how many tiles have read these panels before
    position: Value  # how many other panels have been read before


def share(whole: Value, part: Value, parts: Value) -> tuple[Value, Value]:
    """Where a part of some whole begins and ends."""
    return whole * part // parts, whole * (part + 1) // parts


class Partition:
    """Which rows and unit blocks each thread computes: `unit_parts` shares side by side, the rest over the batch."""

    def __init__(self, c: Code, N: Value, J: Value, parts: Value, unit_parts: Value):
        self._J, self._unit_parts, self._row_parts = J, unit_parts, parts // unit_parts
        self._bounds = c.stack_integers(4 * MOST)  # divisions are slow: once for all steps
        with c.loop(0, parts) as part:
            rows = share(N, part // unit_parts, self._row_parts)
            units = share(J, part % unit_parts, unit_parts)
            for i, bound in enumerate((*rows, *units)):
                self._bounds.store(bound, part * 4 + i)

    def of(self, part: Value) -> tuple[Value, Value, Value, Value]:
        """Where the rows and the blocks of a share begin and end."""
        n0, n1, j0, j1 = (self._bounds.load(part * 4 + i) for i in range(4))
        return n0, n1, j0, j1

    def own_blocks(self, part: Value, piece: Integer = 0, pieces: int = 1) -> tuple[Value, Value]:
        """Where what a share gets begins and ends if the blocks, or a piece of them, are dealt out once to all shares.

        They are blocks that the share computes: what a thread has packed is in its caches, and stays there.
        """
        rank = part % self._unit_parts * self._row_parts + part // self._unit_parts
        return share(self._J, rank * pieces + piece, self._unit_parts * self._row_parts * pieces)


class Tiling(NamedTuple):
    """How rows and groups go into tiles: into so many, each with that many at least, the first ones with one more."""

    row_tiles: Value
    rows_least: Value
    rows_more: Value
    group_tiles: Value
    groups_least: Value
    groups_more: Value


def tiling(c: Code, shapes: Shapes, rows: Value, blocks: Value, limit: int = 0) -> Tiling:
    """As evenly as tiles allow; `limit` is the most groups of a tile."""
    row_tiles = (rows + (shapes.rows - 1)) // shapes.rows
    least = rows // row_tiles.max(1)
    more = rows - least * row_tiles
    largest = least + c.select(more > 0, c.integer(1), 0)
    widest = c.integer(shapes.groups[-1])
    for fewer in range(shapes.rows - 1, 0, -1):
        widest = c.select(largest <= fewer, c.integer(shapes.groups[fewer - 1]), widest)
    if limit:
        widest = widest.min(limit)
    group_tiles = (blocks + widest - 1) // widest
    groups = blocks // group_tiles.max(1)
    return Tiling(row_tiles, least, more, group_tiles, groups, blocks - groups * group_tiles)


class Tilings:
    """Those of all shares: divisions are slow, so once for all steps."""

    def __init__(self, c: Code, shapes: Shapes, partition: Partition, parts: Value):
        self._numbers = c.stack_integers(len(Tiling._fields) * MOST)
        with c.loop(0, parts) as part:
            n0, n1, j0, j1 = partition.of(part)
            for i, number in enumerate(tiling(c, shapes, n1 - n0, j1 - j0)):
                self._numbers.store(number, part * len(Tiling._fields) + i)

    def of(self, part: Value) -> Tiling:
        """How the rows and blocks of a share go into tiles."""
        return Tiling(*(self._numbers.load(part * len(Tiling._fields) + i) for i in range(len(Tiling._fields))))


def each_tile(
    c: Code,
    shapes: Shapes,
    into: Tiling,
    j0: Integer,
    body: Callable[[Tile], None],
    *,
    backwards: Integer = 0,
    only_first: bool = False,
) -> None:
    """body(tile) for every tile of some rows and of the blocks from j0 on, or for those that read the first panels.

    Groups outside, rows inside. Where the same panels are read again and again, every other time should go backwards:
    it begins with what the nearest cache still holds, while always the same order would find nothing there.
    """
    j0, back = c.integer(j0), c.integer(backwards) > 0
    j1 = j0 + into.group_tiles * into.groups_least + into.groups_more
    most, group_tiles = max(shapes.groups), into.group_tiles.min(1) if only_first else into.group_tiles
    with c.when(into.row_tiles > 0), c.loop(0, group_tiles) as i:
        index = c.select(back, into.group_tiles - 1 - i, i)
        group = j0 + index * into.groups_least + index.min(into.groups_more)
        groups = into.groups_least + c.select(index < into.groups_more, c.integer(1), 0)
        next_group = (group + c.select(back, -1 * groups, groups)).max(j0).min(j1 - groups)
        with c.loop(0, into.row_tiles) as repeat:
            row = repeat * into.rows_least + repeat.min(into.rows_more)
            rows = into.rows_least + c.select(repeat < into.rows_more, c.integer(1), 0)
            body(Tile(row, rows, group, groups, (rows - 1) * most + groups - 1, next_group, repeat, i))


def multiply(
    c: Code,
    shapes: Shapes,
    at: Tile,
    left: tuple[Reals, Integer, Integer],
    K: Value,
    panels: Reals,
    first: Reals,
    dst: Reals,
    *,
    first_row: Integer = 0,
    span: tuple[Value, Value] | None = None,
) -> None:
    """Run a tile: `left` is A, a_row and a_block, see `tiles`; `panels` are those of all groups, one behind the other.

    The first four tiles that read some panels prefetch the next ones, a quarter each, or as much of it as their sums
    are long. `span` is the column block that the sums begin with and how many columns they go over, if not all K.
    """
    (A, a_row, a_block), lanes = left, c.module.lanes
    block, count = span or (c.integer(0), K)
    between = K * (shapes.width * lanes)
    panel = panels.at(at.group * between + block * (shapes.width * lanes * lanes))
    later = panels.at(at.next_group * between + at.repeat.min(3) * (at.groups * between // 4))
    call_one_of(
        c, tile, shapes.variants, at.variant, A.at(block * a_block), c.integer(a_row), c.integer(a_block), count,
        panel, between, first, c.integer(first_row), dst, later,
    )  # fmt: skip


def chunks(c: Code, rows: Value, size: int, body: Callable[[Value, Value], None]) -> None:
    """body(row, rows) for runs of at most `size` rows, evenly."""
    with c.when(rows > 0):
        count = (rows + (size - 1)) // size
        with c.loop(0, count) as i:
            first, last = share(rows, i, count)
            body(first, last - first)


def runs(
    c: Code, N: Value, n0: Value, n1: Value, first: Value, last: Value, size: int, body: Callable[[Value, Value], None]
) -> None:
    """body(row, rows) for the rows n0 to n1 of N of the steps `first` to `last`, at most `size` at once."""
    whole = (n1 - n0).equals(N)  # then the rows of all steps are contiguous
    count, length = c.select(whole, c.integer(1), last - first), c.select(whole, (last - first) * N, n1 - n0)
    with c.loop(0, count) as run:
        begin = (first + run) * N + n0
        chunks(c, length, size, lambda m, rows: body(begin + m, rows))
