"""What the kernels are called with: one record of integers of 64 bits, and a tuple of arrays.

A record is Sizes, then the fields of one call, then the addresses of the places in scratch memory that `plan` lays out.
The fields of the classes are in their order in memory. A kernel's code sees them as values and pointers, see `record`;
Python as integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal, TypeVar

__all__ = [
    "ALIGNED",
    "ARRAYS",
    "CALL",
    "CONTIGUOUS",
    "GATES",
    "HEADER",
    "PACKED",
    "PLACES",
    "SIZES",
    "STATES",
    "STEP",
    "BackwardArrays",
    "BackwardCall",
    "BackwardPlaces",
    "ForwardArrays",
    "ForwardCall",
    "ForwardPlaces",
    "IntegerPlaces",
    "Kind",
    "Sizes",
]

Kind = Literal["forward", "backward", "integers", "fixed"]
Number = TypeVar("Number")
Reals = TypeVar("Reals")
Bytes = TypeVar("Bytes")

#: flags of an array: aligned; in C order and aligned
ALIGNED, CONTIGUOUS = 0x100, 0x101
#: what the forward pass writes, in its field `what`: y and the next state; the states before each step; the gates
STEP, STATES, GATES = 1, 2, 4
#: also in `what`: the weights are packed already, into the first places
PACKED = 8


def shape(letters: str, beside: str | None = None, *, optional: bool = False, gate: bool = False) -> dict[str, Any]:
    """What is said of an array: its shape; whether it may be None, or has to be None where another one is.

    The numbers of a `gate` are as they were computed, others of the dtype of arrays, which may have 16 bits.
    """
    return {"shape": tuple(letters.split()), "beside": beside, "optional": optional, "stored": not gate}


@dataclass
class Sizes(Generic[Number]):
    """The same for all calls of one size."""

    items_at: Number  # where the items begin in a tuple, in bytes
    data_at: Number  # where the address of the data is in an array, in bytes
    type_at: Number  # where the address of an object's type is, in bytes
    none: Number  # the address of None
    array_type: Number  # of the type of arrays
    real_dtype: Number  # of the dtype of arrays
    gates_dtype: Number  # of the dtype that is computed in
    boolean_dtype: Number  # of the dtype of booleans
    T: Number
    N: Number
    I: Number
    H: Number
    steps: Number  # of a block of time
    unit_parts: Number  # into how many parts the hidden units are dealt out
    pitch: Number  # rows from block to block of what has the rows of a block of time


@dataclass
class ForwardCall(Generic[Number]):
    """One forward call: the steps `first` to `last` of a sequence."""

    first: Number
    last: Number
    reverse: Number
    what: Number  # STEP, STATES, GATES and PACKED
    arrays: Number  # the address of the tuple


@dataclass
class BackwardCall(Generic[Number]):
    """One backward call: the steps from `last` down to `first` of a sequence."""

    first: Number
    last: Number
    reverse: Number
    dy_row: Number  # elements from row to row of dy, and from step to step
    dy_step: Number
    arrays: Number


@dataclass
class ForwardPlaces(Generic[Reals]):
    """Scratch memory of a forward pass; the first four are those of packed weights, see `packed`."""

    panels_ih: Reals  # W_ih and W_hh as panels
    panels_hh: Reals
    start_gi: Reals  # the biases, which the sums begin with
    start_gh: Reals
    gi: Reals  # x @ W_ih.T + biases of a block of time
    state: Reals  # the state before and after a step
    begun: Reals  # the first sums of the next step, see `forward`
    wide_x: Reals  # of each thread: some rows of x, where arrays have 16 bits


@dataclass
class IntegerPlaces(Generic[Reals]):
    """Scratch memory of a forward pass of 8-bit weights, see `integers`; the first nine are those of packed weights."""

    panels_ih: Reals  # bytes
    panels_hh: Reals
    start_gi: Reals
    start_gh: Reals
    first_ih: Reals  # words: what the sums begin with
    first_hh: Reals
    scale_ih: Reals  # of rows of W, divided by the largest whole number
    scale_hh: Reals
    one: Reals  # a 1
    gi: Reals
    state: Reals
    digits_x: Reals  # bytes: the rows of x of a block of time as whole numbers, and their largest numbers
    size_x: Reals
    digits_h: Reals  # bytes: the state before and after a step, as whole numbers


@dataclass
class BackwardPlaces(Generic[Reals]):
    """Scratch memory of a backward pass."""

    columns_ih: Reals  # W_ih and W_hh as column blocks
    columns_hh: Reals
    panels_ih: Reals  # these four only where the gates are computed again
    panels_hh: Reals
    start_gi: Reals
    start_gh: Reals
    carry: Reals  # the part of dh that does not go through the gates
    D: Reals  # the gates' gradients, x and h_prev of a block of time
    X: Reals
    P: Reals
    gates: Reals  # r, z, n and u of a block of time, computed again
    dy_clean: Reals = field(metadata={"stored": True})  # dy of a block of time without the padding's
    totals: Reals  # the sums of D over time
    sum_ih: Reals  # the weights' gradients so far, where arrays have 16 bits
    sum_hh: Reals


@dataclass
class ForwardArrays(Generic[Reals, Bytes]):
    """Arrays of a forward pass, with their shapes."""

    x: Reals = field(metadata=shape("T N I"))
    h0: Reals = field(metadata=shape("N H"))
    W_ih: Reals = field(metadata=shape("3H I"))
    W_hh: Reals = field(metadata=shape("3H H"))
    b_ih: Reals = field(metadata=shape("3H", optional=True))
    b_hh: Reals = field(metadata=shape("3H", "b_ih"))
    y: Reals = field(metadata=shape("T N H"))
    h_n: Reals = field(metadata=shape("N H"))
    h_prev: Reals = field(metadata=shape("T N H", optional=True))
    r: Reals = field(metadata=shape("T N H", optional=True, gate=True))
    z: Reals = field(metadata=shape("T N H", "r", gate=True))
    n: Reals = field(metadata=shape("T N H", "r", gate=True))
    u: Reals = field(metadata=shape("T N H", "r", gate=True))
    x_clean: Reals = field(metadata=shape("T N I", "valid"))
    valid: Bytes = field(metadata=shape("T N", optional=True))
    cut: Bytes = field(metadata=shape("T N", optional=True))


@dataclass
class BackwardArrays(Generic[Reals, Bytes]):
    """Arrays of a backward pass, with their shapes."""

    x: Reals = field(metadata=shape("T N I"))
    h_prev: Reals = field(metadata=shape("T N H"))
    r: Reals = field(metadata=shape("T N H", optional=True, gate=True))
    z: Reals = field(metadata=shape("T N H", "r", gate=True))
    n: Reals = field(metadata=shape("T N H", "r", gate=True))
    u: Reals = field(metadata=shape("T N H", "r", gate=True))
    W_ih: Reals = field(metadata=shape("3H I"))
    W_hh: Reals = field(metadata=shape("3H H"))
    b_ih: Reals = field(metadata=shape("3H", optional=True))
    b_hh: Reals = field(metadata=shape("3H", "b_ih"))
    dy: Reals = field(
        metadata=shape("T N H")
    )  # need not be contiguous, see `BackwardCall`; or (H,) for all rows and steps
    dh_n: Reals = field(metadata=shape("N H", optional=True))
    valid: Bytes = field(metadata=shape("T N", optional=True))
    cut: Bytes = field(metadata=shape("T N", optional=True))
    dx: Reals = field(metadata=shape("T N I"))
    dh0: Reals = field(metadata=shape("N H"))
    dW_ih: Reals = field(metadata=shape("3H I"))
    dW_hh: Reals = field(metadata=shape("3H H"))
    db_ih: Reals = field(metadata=shape("3H", "b_ih"))
    db_hh: Reals = field(metadata=shape("3H", "b_ih"))


def _names(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))


SIZES = _names(Sizes)
CALL: dict[Kind, tuple[str, ...]] = {
    "forward": _names(ForwardCall),
    "backward": _names(BackwardCall),
    "integers": _names(ForwardCall),
    "fixed": _names(ForwardCall),
}
PLACES: dict[Kind, tuple[str, ...]] = {
    "forward": _names(ForwardPlaces),
    "backward": _names(BackwardPlaces),
    "integers": _names(IntegerPlaces),
    "fixed": _names(IntegerPlaces),
}
ARRAYS: dict[Kind, tuple[str, ...]] = {
    "forward": _names(ForwardArrays),
    "backward": _names(BackwardArrays),
    "integers": _names(ForwardArrays),
    "fixed": _names(ForwardArrays),
}
#: what callers in native code give before the fields: the threads, bytes of scratch memory
HEADER = ("threads", "scratch")
