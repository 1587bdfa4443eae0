"""What the kernels are called with: one record of integers of 64 bits, and a tuple of arrays.

A record is Sizes, then the fields of one call, then the addresses of the places in scratch memory that `plan` lays out.
The fields of the classes are in their order in memory. A kernel's code sees them as values and pointers, see `record`;
Python as integers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Generic, Literal, TypeVar

__all__ = [
    "ARRAYS",
    "CALL",
    "CONTIGUOUS",
    "GATES",
    "HEADER",
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
    "Kind",
    "Sizes",
]

Kind = Literal["forward", "backward"]
Number = TypeVar("Number")
Reals = TypeVar("Reals")
Bytes = TypeVar("Bytes")

#: flags of an array: in C order, and aligned
CONTIGUOUS = 0x1 | 0x100
#: what the forward pass writes, in its field `what`: y and the next state; the states before each step; the gates
STEP, STATES, GATES = 1, 2, 4


@dataclass
class Sizes(Generic[Number]):
    """The same for all calls of one size."""

    items_at: Number  # where the items begin in a tuple, in bytes
    data_at: Number  # where the address of the data is in an array, in bytes
    flags_at: Number  # where the flags are
    none: Number  # the address of None
    T: Number
    N: Number
    I: Number
    H: Number
    steps: Number  # of a block of time
    unit_parts: Number  # into how many parts the hidden units are dealt out
    wait: Number  # 1 where the caller waits for the other threads before it begins
    pitch: Number  # rows from block to block of what has the rows of a block of time


@dataclass
class ForwardCall(Generic[Number]):
    """One forward call: the steps `first` to `last` of a sequence."""

    first: Number
    last: Number
    reverse: Number
    what: Number  # STEP, STATES and GATES
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
    dy_clean: Reals  # dy of a block of time without the padding's
    totals: Reals  # the sums of D over time


@dataclass
class ForwardArrays(Generic[Reals, Bytes]):
    """Arrays of a forward pass; any but the first two may be None."""

    x: Reals
    h0: Reals
    W_ih: Reals
    W_hh: Reals
    b_ih: Reals
    b_hh: Reals
    y: Reals
    h_n: Reals
    h_prev: Reals
    r: Reals
    z: Reals
    n: Reals
    u: Reals
    x_clean: Reals
    valid: Bytes
    cut: Bytes


@dataclass
class BackwardArrays(Generic[Reals, Bytes]):
    """Arrays of a backward pass."""

    x: Reals
    h_prev: Reals
    r: Reals
    z: Reals
    n: Reals
    u: Reals
    W_ih: Reals
    W_hh: Reals
    b_ih: Reals
    b_hh: Reals
    dy: Reals  # the only one that need not be contiguous: see `BackwardCall`
    dh_n: Reals
    valid: Bytes
    cut: Bytes
    dx: Reals
    dh0: Reals
    dW_ih: Reals
    dW_hh: Reals
    db_ih: Reals
    db_hh: Reals


def _names(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))


SIZES = _names(Sizes)
CALL: dict[Kind, tuple[str, ...]] = {"forward": _names(ForwardCall), "backward": _names(BackwardCall)}
PLACES: dict[Kind, tuple[str, ...]] = {"forward": _names(ForwardPlaces), "backward": _names(BackwardPlaces)}
ARRAYS: dict[Kind, tuple[str, ...]] = {"forward": _names(ForwardArrays), "backward": _names(BackwardArrays)}
#: what callers in native code give before the fields: the threads, what `launch` calls `alone`, bytes of scratch memory
HEADER = ("threads", "alone", "scratch")
