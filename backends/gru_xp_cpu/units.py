"""What is compiled together: the units by name."""

from __future__ import annotations

from .backward import backward
from .code import Unit
from .forward import forward
from .meeting import join_and_lend, meet, offer, serve_and_launch
from .packing import packing
from .pointwise import pointwise
from .rows import products_of_few_rows
from .target import Target
from .tiles import columns_shapes, gates_shapes, tiles, weight_tiles
from .xla import custom_call

__all__ = ["build"]


def build(target: Target, kind: str, dtype: str) -> Unit:
    """The unit of one kind: "forward", "backward" or "threads".

    `forward_alone(fields)` and `backward_alone(fields)` are for one thread: a single argument costs Python least. They
    do nothing but say how many there are if some arrays are not compact; `loose(fields)` says the same.
    """
    unit = Unit(target, dtype)
    if kind == "threads":
        serve_and_launch(unit)
        offer(unit)
        join_and_lend(unit)
        return unit
    meet(unit)
    packing(unit)
    pointwise(unit)
    tiles(unit, "gates", gates_shapes(unit))
    products_of_few_rows(unit, kind)
    if kind == "forward":
        forward(unit)
    else:
        tiles(unit, "columns", columns_shapes(unit))
        weight_tiles(unit, "weights")
        backward(unit)
    with unit.function("loose", "@fields", public=True, gives=True) as c:
        c.give(c.record(c.fields, kind).loose)
    with unit.function(f"{kind}_alone", "@fields", public=True, gives=True) as c:
        loose = c.call("loose", c.fields)
        with c.when(loose.equals(0)):
            c.call(kind, c.fields, 0, 1, c.nowhere())
        c.give(loose)
    custom_call(unit, kind)
    return unit
