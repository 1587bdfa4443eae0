"""The kernels by kind, and on one thread."""

from __future__ import annotations

from gru_xp_cpu.emit.code import Code, Integers, Value
from gru_xp_cpu.emit.function import Function, function

from .backward import backward
from .fields import Kind
from .forward import forward
from .record import RECORDS

__all__ = ["KERNELS", "alone", "noncontiguous"]

KERNELS: dict[Kind, Function[[Integers, Value, Value, Integers], None]] = {"forward": forward, "backward": backward}


@function
def noncontiguous(c: Code, fields: Integers, *, kind: Kind) -> Value:
    """How many arrays of a call are not contiguous."""
    return RECORDS[kind](c, fields).noncontiguous


@function
def alone(c: Code, fields: Integers, *, kind: Kind) -> Value:
    """Run a kernel on one thread if all arrays are contiguous; how many are not. One argument costs Python least."""
    count = noncontiguous(c, fields, kind=kind)
    with c.when(count.equals(0)):
        KERNELS[kind](c, fields, c.integer(0), c.integer(1), c.null(Integers))
    return count
