"""What is compiled together for a pass."""

from __future__ import annotations

from gru_xp_cpu.emit.code import Unit
from gru_xp_cpu.emit.target import Target
from gru_xp_cpu.passes.backward import backward
from gru_xp_cpu.passes.few_rows import products_of_few_rows
from gru_xp_cpu.passes.forward import forward
from gru_xp_cpu.passes.packing import packing
from gru_xp_cpu.passes.pointwise import pointwise
from gru_xp_cpu.passes.record import Record
from gru_xp_cpu.passes.shapes import columns_shapes, gates_shapes
from gru_xp_cpu.passes.tiles import tiles, weight_tiles
from gru_xp_cpu.threads.barrier import meet

from .custom_call import custom_call

__all__ = ["build"]


def build(target: Target, kind: str, dtype: str) -> Unit:
    """The unit of one kind, "forward" or "backward".

    `forward_alone(fields)` and `backward_alone(fields)` are for one thread: a single argument costs Python least. They
    do nothing but say how many there are if some arrays are not compact; `loose(fields)` says the same.
    """
    unit = Unit(target, dtype)
    meet(unit)
    packing(unit)
    pointwise(unit)
    tiles(unit, "gates", gates_shapes(unit.target.registers))
    products_of_few_rows(unit, kind)
    if kind == "forward":
        forward(unit)
    else:
        tiles(unit, "columns", columns_shapes(unit.target.registers))
        weight_tiles(unit, "weights")
        backward(unit)
    with unit.function("loose", "@fields", public=True, gives=True) as c:
        c.give(Record(c, c.fields, kind).loose)
    with unit.function(f"{kind}_alone", "@fields", public=True, gives=True) as c:
        loose = c.call("loose", c.fields)
        with c.when(loose.equals(0)):
            c.call(kind, c.fields, 0, 1, c.nowhere())
        c.give(loose)
    custom_call(unit, kind)
    return unit
