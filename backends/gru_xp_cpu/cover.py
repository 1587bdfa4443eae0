"""Loops over tiles: how rows and groups of columns are dealt out to the tiles of a table, evenly.

Nine rows are 5 + 4 rather than 8 + 1 and four groups 2 + 2 rather than 3 + 1: a small tile waits for its own sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .code import Code, Value
from .tiles import Shapes

__all__ = ["chunks", "cover", "share"]

Body = Callable[[Value, Value, Value, Value, Value], None]


def share(whole: Value, part: Value, parts: Value) -> tuple[Value, Value]:
    """Where a part of some whole begins and ends."""
    return whole * part / parts, whole * (part + 1) / parts


def cover(c: Code, shapes: Shapes, rows: Any, j0: Any, j1: Any, body: Body, *, limit: Any = 1 << 30) -> None:
    """body(row, rows, group, groups, tile) for every tile; `tile` is its index in the table. Groups outside, rows
    inside.

    `limit` is the most groups of a tile.
    """
    rows, j0, j1 = c.integer(rows), c.integer(j0), c.integer(j1)
    most = max(shapes.groups)
    with c.when(rows > 0):
        count = (rows + (shapes.rows - 1)) / shapes.rows
        least, extra = rows / count, rows % count
        largest = least + c.select(extra > 0, c.integer(1), 0)
        widest = c.integer(shapes.groups[-1])
        for fewer in range(shapes.rows - 1, 0, -1):
            widest = c.select(largest <= fewer, c.integer(shapes.groups[fewer - 1]), widest)
        widest = widest.min(limit)
        with c.loop_while(j0, lambda j: j < j1) as group:
            j = group.get()
            left = j1 - j
            turns = (left + widest - 1) / widest
            groups = (left + turns - 1) / turns
            tile = c.variable(0)
            with c.loop_while(0, lambda m: m < rows) as row:
                m = row.get()
                take = least + c.select(tile.get() < extra, c.integer(1), 0)
                body(m, take, j, groups, (take - 1) * most + groups - 1)
                tile.set(tile.get() + 1)
                row.set(m + take)
            group.set(j + groups)


def chunks(c: Code, rows: Value, size: int, body: Callable[[Value, Value], None]) -> None:
    """body(row, rows) for runs of at most `size` rows, evenly."""
    with c.when(rows > 0):
        count = (rows + (size - 1)) / size
        with c.loop(0, count) as i:
            first, last = share(rows, i, count)
            body(first, last - first)
