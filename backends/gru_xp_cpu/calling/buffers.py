"""Whether the buffers that XLA gives to a custom call are what the integers of the call say, found out on every call.

As `passes.misfits` does for NumPy's arrays: a kernel reads and writes as many bytes as T, N, I and H say, and whoever
calls `jax.ffi.ffi_call` may give it other buffers. See `custom_call` for where a frame has what.
"""

from __future__ import annotations

from dataclasses import fields

from gru_xp_cpu.emit.code import Code, Integers, Value
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.passes.fields import ARRAYS, CALL, HEADER, PLACES, SIZES, BackwardArrays, ForwardArrays, Kind

__all__ = ["ARRAY", "ATTRIBUTES", "DATA", "OPERANDS", "RESULTS", "follow", "half", "unfit", "where"]

# of a frame: the counts and the pointers of operands, results and attributes; and the types of attributes
OPERANDS, RESULTS, ATTRIBUTES, TYPES = (7, 9), (12, 14), (17, 20), 18
# of a buffer: its dtype (32 bits), data, number of dimensions and their sizes
DTYPE, DATA, RANK, DIMENSIONS = 2, 3, 4, 5
# of an attribute that is an array: its dtype (32 bits), its length, its data
COUNT, ARRAY = 1, 2
#: the type of an attribute that is an array (`XLA_FFI_AttrType_ARRAY`), and dtypes (`XLA_FFI_DataType`)
IS_ARRAY, BOOLEAN, INTEGER, REAL = 1, 1, 5, {"float16": 10, "float32": 11, "float64": 12, "bfloat16": 16}
LETTERS = ("T", "N", "I", "H")


def where(kind: Kind) -> int:
    """Where among the integers of a call the numbers of the buffers begin."""
    return len(HEADER) + len(SIZES) + len(CALL[kind]) + len(PLACES[kind])


def follow(pointer: Integers, index: int = 0) -> Integers:
    """The integers that an integer is the address of."""
    return pointer.code.pointer(Integers, pointer.load(index))


@function
def unfit(c: Code, frame: Integers, *, kind: Kind) -> Value:
    """How many buffers are not what the call says, or 1000 if its integers are not what `xla.call` makes."""
    found = c.variable(1000)
    with c.when(frame.load(ATTRIBUTES[0]).equals(1)):
        attribute = follow(follow(frame, ATTRIBUTES[1]))
        right = half(follow(frame, TYPES).load()).equals(IS_ARRAY) & half(attribute.load()).equals(INTEGER)
        with c.when(right & attribute.load(COUNT).equals(where(kind) + len(ARRAYS[kind]))):
            found.set(_unfit_buffers(c, frame, follow(attribute, ARRAY), kind=kind))
    return found.get()


@function
def _unfit_buffers(c: Code, frame: Integers, numbers: Integers, *, kind: Kind) -> Value:
    def number(name: str) -> Value:
        return numbers.load(len(HEADER) + (*SIZES, *CALL[kind]).index(name))

    sizes = {letter: number(letter) for letter in LETTERS}
    sizes["3H"] = sizes["H"] * 3
    arrays = fields(BackwardArrays if kind == "backward" else ForwardArrays)
    positions = [numbers.load(where(kind) + i) for i in range(len(arrays))]
    missing = {field.name: at < 0 for field, at in zip(arrays, positions, strict=True)}
    whole = number("first").equals(0) & number("last").equals(sizes["T"])
    if kind == "backward":
        whole = whole & number("dy_row").equals(sizes["H"]) & number("dy_step").equals(sizes["N"] * sizes["H"])
    count = c.variable(c.select(whole, c.integer(0), 1))
    for field, at in zip(arrays, positions, strict=True):
        beside = field.metadata["beside"]
        if beside is not None:
            count.set(count.get() + c.select(missing[field.name] ^ missing[beside], c.integer(1), 0))
        elif not (field.metadata["optional"] or field.name == "dx"):
            count.set(count.get() + c.select(missing[field.name], c.integer(1), 0))
        real = REAL[c.module.stored if field.metadata["stored"] else c.module.dtype]
        dtype = BOOLEAN if field.type == "Bytes" else real
        shape = field.metadata["shape"]
        with c.when(at >= 0):
            first = _first_size(c, frame, at, c.integer(dtype), c.integer(len(shape)))
            count.set(count.get() + 1)
            with c.when(first.equals(0) ^ True):
                dimensions, fits = c.pointer(Integers, first), c.integer(1).equals(1)
                for axis, letter in enumerate(shape):
                    fits = fits & dimensions.load(axis).equals(sizes[letter])
                count.set(count.get() - c.select(fits, c.integer(1), 0))
    return count.get()


@function
def _first_size(c: Code, frame: Integers, number: Value, dtype: Value, rank: Value) -> Value:
    """The address of the sizes of a buffer; 0 if there is no such buffer, or if it has another dtype or rank."""
    given, found = frame.load(OPERANDS[0]), c.variable(0)
    with c.when(number < given + frame.load(RESULTS[0])):
        operands, results = follow(frame, OPERANDS[1]), follow(frame, RESULTS[1])
        buffer = follow(c.select_pointer(number < given, operands, results.at(-1 * given)).at(number))
        with c.when(half(buffer.load(DTYPE)).equals(dtype) & buffer.load(RANK).equals(rank)):
            found.set(buffer.load(DIMENSIONS))
    return found.get()


def half(value: Value) -> Value:
    """The first 32 bits."""
    return value & 0xFFFFFFFF
