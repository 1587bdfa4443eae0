"""What a kernel is called with, as its code sees it: values, and pointers to scratch memory and to the arrays' data.

The kernel itself reads Python's tuple and NumPy's arrays, at the offsets that `offsets` has found: to ask Python and
NumPy for all of it would take longer than a small kernel.
"""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any

from gru_xp_cpu.emit.code import Bytes, Code, Integer, Integers, Pointer, Reals, Value
from gru_xp_cpu.emit.stored import stored_in

from .fields import (
    BackwardArrays,
    BackwardCall,
    BackwardPlaces,
    ForwardArrays,
    ForwardCall,
    ForwardPlaces,
    IntegerPlaces,
    Kind,
    Sizes,
)

__all__ = ["RECORDS", "BackwardRecord", "ForwardRecord", "IntegerRecord", "Record", "tape"]


class Record(Sizes[Value]):
    """What both passes have. `has_x` is 1, or 0 where the array x is None; its address is that of nothing then."""

    groups: tuple[type, type, type]  # of fields: of one call, of places, of arrays
    items: Integers  # the addresses of the arrays, as Python has them
    has_b_ih: Value
    has_valid: Value
    has_cut: Value

    def __init__(self, c: Code, address: Integers):
        call, places, arrays = map(fields, self.groups)
        stored = stored_in(c.module)

        def kind(field: Field[Any]) -> type[Pointer]:
            return Bytes if field.type == "Bytes" else stored if field.metadata.get("stored") else Reals

        for i, field in enumerate((*fields(Sizes), *call, *places)):
            value = address.load(i)
            setattr(self, field.name, c.pointer(kind(field), value) if field in places else value)
        self.items = c.pointer(Integers, vars(self)["arrays"]).moved(self.items_at)
        for i, field in enumerate(arrays):
            array = self.items.load(i)
            missing = array.equals(self.none)
            data = c.pointer(Integers, array).moved(c.select(missing, 0, self.data_at)).load()
            setattr(self, field.name, c.pointer(kind(field), c.select(missing, 0, data)))
            setattr(self, f"has_{field.name}", c.select(missing, c.integer(0), 1))


class ForwardRecord(Record, ForwardCall[Value], ForwardPlaces[Reals], ForwardArrays[Reals, Bytes]):
    """Of the forward pass."""

    groups = ForwardCall, ForwardPlaces, ForwardArrays


class IntegerRecord(ForwardRecord, IntegerPlaces[Reals]):
    """Of the forward pass of 8-bit weights, where nothing is `begun`."""

    groups = ForwardCall, IntegerPlaces, ForwardArrays  # type: ignore[assignment]


class BackwardRecord(Record, BackwardCall[Value], BackwardPlaces[Reals], BackwardArrays[Reals, Bytes]):
    """Of the backward pass."""

    groups = BackwardCall, BackwardPlaces, BackwardArrays
    has_r: Value  # 0 where the gates have to be computed again
    has_dh_n: Value
    has_dx: Value


def tape(a: ForwardRecord | BackwardRecord, at: Integer) -> tuple[Reals, Reals, Reals, Reals, Reals]:
    """h_prev, r, z, n and u, from one element on."""
    return a.h_prev.at(at), a.r.at(at), a.z.at(at), a.n.at(at), a.u.at(at)


RECORDS: dict[Kind, type[Record]] = {
    "forward": ForwardRecord,
    "backward": BackwardRecord,
    "integers": IntegerRecord,
    "fixed": IntegerRecord,
}
