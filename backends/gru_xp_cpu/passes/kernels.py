"""The kernels by kind, and on one thread."""

from __future__ import annotations

from gru_xp_cpu.emit.code import Code, Integers, Value
from gru_xp_cpu.emit.function import Function, function

from .backward import backward
from .fields import Kind
from .forward import forward
from .integers import fixed, integers
from .misfits import misfits

__all__ = ["KERNELS", "alone"]

KERNELS: dict[Kind, Function[[Integers, Value, Value, Integers], None]] = {
    "forward": forward,
    "backward": backward,
    "integers": integers,
    "fixed": fixed,
}


@function
def alone(c: Code, fields: Integers, *, kind: Kind) -> Value:
    """Run a kernel on one thread if all arrays fit its sizes; how many do not. One argument costs Python least."""
    count = misfits(c, fields, kind=kind)
    with c.when(count.equals(0)):
        KERNELS[kind](c, fields, c.integer(0), c.integer(1), c.null(Integers))
    return count
