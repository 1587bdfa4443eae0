"""Whether the arrays of a call are what its sizes say, found out on every call, whoever calls.

Kernels read and write as many bytes as T, N, I and H say. So before one runs, machine code compares the type, the
dtype, the shape and the flags of each NumPy array with what the fields of its record ask for: all of them in less time
than Python needs to ask one array for its shape.
"""

from __future__ import annotations

from dataclasses import fields
from typing import cast

from llvmlite import ir

from gru_xp_cpu.emit.code import Code, Integers, Value
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import SIZE

from .digits import ROUNDING
from .fields import ALIGNED, CONTIGUOUS, Kind
from .record import RECORDS, BackwardRecord, ForwardRecord

__all__ = ["misfits"]

#: where an array has, in words of 64 bits from the address of its data on: the number of its dimensions (32 bits), the
#: addresses of their sizes and strides and of the dtype, the flags (32 bits); `PyArrayObject_fields` of ndarraytypes.h
RANK, SIZES, STRIDES, DTYPE, FLAGS = 1, 2, 3, 5, 6
#: the bits of a 1 in float32
ONE = 127 << 23
#: arrays with three dimensions that every call makes itself: they are read where another one cannot be
OWN: dict[Kind, str] = {"forward": "y", "backward": "dx", "integers": "y", "fixed": "y"}


@function
def misfits(c: Code, record: Integers, *, kind: Kind) -> Value:
    """How many arrays of a call are not what its sizes say."""
    a = RECORDS[kind](c, record)
    arrays = fields(a.groups[2])
    letters = {"T": a.T, "N": a.N, "I": a.I, "H": a.H, "3H": a.H * 3}
    own = a.items.load([field.name for field in arrays].index(OWN[kind]))
    count, missing = c.integer(0), {field.name: a.items.load(i).equals(a.none) for i, field in enumerate(arrays)}
    for i, field in enumerate(arrays):
        item, shape = a.items.load(i), field.metadata["shape"]
        is_array = c.pointer(Integers, item).moved(a.type_at).load().equals(a.array_type)
        array = _Array(c, a.data_at, c.select(is_array, item, own), own)
        fits = array.has([letters[letter] for letter in shape])
        if field.name == "dy":
            fits = fits & _steps(c, cast(BackwardRecord, a), array) | _one_step(c, cast(BackwardRecord, a), array)
        else:
            fits = fits & array.flags(CONTIGUOUS)
        real = a.real_dtype if field.metadata["stored"] else a.gates_dtype
        fits = is_array & fits & array.dtype.equals(a.boolean_dtype if field.type == "Bytes" else real)
        if field.metadata["optional"]:
            fits = fits | missing[field.name]
        elif field.metadata["beside"]:
            fits = c.select(missing[field.metadata["beside"]], missing[field.name], fits)
        count = count + c.select(fits, c.integer(0), 1)
    if kind in ROUNDING:
        beyond = c.variable(0)
        with c.when(count.equals(0)):
            beyond.set(_beyond_1(c, cast(ForwardRecord, a)))
        count = count + beyond.get()
    return count


def _beyond_1(c: Code, a: ForwardRecord) -> Value:
    """1 if h0 has a number beyond 1, or one that is none: the kernel takes 1 for the largest of a state."""
    V, whole = c.module.lanes, a.N * a.H
    most = c.variable(Value(c, ir.Constant(c.module.bits_vector, None)))

    def look(k: Value, mask: Value | None) -> None:
        bits, so_far = c.bits_of(a.h0.load_vector(k, mask)) & 0x7FFFFFFF, most.get()
        most.set(Value(c, c.b.select((bits > so_far).ir, bits.ir, so_far.ir)))

    with c.loop(0, whole, V) as k:
        c.masked(whole - k, lambda mask: look(k, mask))
    return c.select(c.largest(most.get()) > ONE, c.integer(1), 0)


class _Array:
    """An array of NumPy's; `own` is one with three dimensions."""

    def __init__(self, c: Code, data_at: Value, address: Value, own: Value):
        self._c = c
        self._here, self._own = (c.pointer(Integers, array).moved(data_at) for array in (address, own))
        self._rank, self._flags = (self._here.load(at) & 0xFFFFFFFF for at in (RANK, FLAGS))
        self.dtype = self._here.load(DTYPE)

    def numbers(self, what: int, count: int) -> tuple[Value, list[Value]]:
        """Whether the array has so many dimensions, and their SIZES or STRIDES."""
        ranked = self._rank.equals(count)
        first = self._c.pointer(Integers, self._c.select(ranked, self._here.load(what), self._own.load(what)))
        return ranked, [first.load(i) for i in range(count)]

    def has(self, shape: list[Value]) -> Value:
        """Whether the array has that shape."""
        fits, sizes = self.numbers(SIZES, len(shape))
        for size, expected in zip(sizes, shape, strict=True):
            fits = fits & size.equals(expected)
        return fits

    def flags(self, bits: int) -> Value:
        """Whether the array has all of these flags."""
        return (self._flags & bits).equals(bits)


def _steps(c: Code, a: BackwardRecord, dy: _Array) -> Value:
    """Whether dy (T, N, H) has its rows and steps where the call says."""
    _, (step, row, one) = dy.numbers(STRIDES, 3)
    size = SIZE[a.dy.element]
    apart = one.equals(size) & row.equals(a.dy_row * size) & step.equals(a.dy_step * size) & dy.flags(ALIGNED)
    return apart | (dy.flags(CONTIGUOUS) & a.dy_row.equals(a.H) & a.dy_step.equals(a.N * a.H))


def _one_step(c: Code, a: BackwardRecord, dy: _Array) -> Value:
    """Whether dy is (H,), for all rows and steps."""
    return dy.has([a.H]) & dy.flags(CONTIGUOUS) & a.dy_row.equals(0) & a.dy_step.equals(0)
