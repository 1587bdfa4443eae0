"""What is decided before a kernel runs: threads and their shares, blocks of time, the places in scratch memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gru_xp_cpu.passes.digits import ROUNDING, digits_of
from gru_xp_cpu.passes.fields import SIZES, BackwardPlaces, ForwardPlaces, IntegerPlaces, Kind, Sizes
from gru_xp_cpu.passes.offsets import offsets
from gru_xp_cpu.passes.shapes import CHUNK, gates_shapes, weight_shapes
from gru_xp_cpu.threads.autotune import Autotuner

from .dtypes import gates_dtype, name_of
from .memory import KEPT, LARGE, Scratch, block, empty, scratch

if TYPE_CHECKING:
    from gru_xp_cpu.emit.target import Target

__all__ = ["Plan", "is_small", "make_plan"]

#: multiply-adds of a call below which a second thread costs more than it brings: 30 microseconds and more
SMALL = 2_000_000
#: weights of a layer that one core reads, or reads and adds to, from its nearer caches. With more, a call of a few rows
#: waits for memory, and two cores wait half as long: (1, 1, 320, 320) takes 48 instead of 107 microseconds.
NEAR: dict[Kind, int] = {"forward": 500_000, "backward": 250_000, "integers": 2_000_000, "fixed": 2_000_000}
#: multiply-adds with W_hh in one step below which its units are not shared: meeting costs 0.3 microseconds and more
TOGETHER = 12_000
#: rows (steps times batch) of a block of time
ROWS_FORWARD, ROWS_BACKWARD = 128, 512
#: multiply-adds of one call into native code, between two of which Python can see a Ctrl-C
SEGMENT = 4e9
#: a batch is shared by rows if there are so many for each thread
ROWS_EACH = 8
#: bytes of W_hh that a core may read at each step; beyond it the units are shared, so that each core reads its own part
#: and its nearer caches hold that and what comes by
WEIGHTS_EACH = 1 << 19


#: the places of packed 8-bit weights that have a number for each row of W
PACKED_ROWS = ("start_gi", "start_gh", "first_ih", "first_hh", "scale_ih", "scale_hh")


@dataclass(eq=False)
class Plan:
    """What is the same for all calls of one size."""

    threads: int
    sizes: Sizes[int]
    gates: Any  # NumPy's dtype of the gates that are saved
    segment: int  # steps of one call into native code
    offsets: tuple[int, ...]  # in scratch memory, in bytes, of the places
    size: int  # of scratch memory, in bytes
    #: run(fields): 0, or how many arrays are not what the sizes say; then nothing is computed
    run: Callable[[bytes], int] = field(init=False)
    #: packs the fields between `head` and `tail`, the last one being the address of the arrays
    pack: Callable[..., bytes] = field(init=False)
    autotuner: Autotuner | None = None

    def __post_init__(self) -> None:
        T, N, I, H = self.sizes.T, self.sizes.N, self.sizes.I, self.sizes.H
        most = max(T * N * max(I, H), 3 * H * max(I, H))  # elements of the largest array
        self.empty = np.empty if most * 8 < LARGE else empty  # which `empty` would come to for each of them
        #: takes back what `scratch` gave; a caller that fails need not call it
        self.keep: Callable[[Scratch], None] = scratch.append if self.size <= KEPT else lambda piece: None
        self.head = struct.pack(f"{len(SIZES)}q", *astuple(self.sizes))
        self._known = 0, b""

    def tail(self, address: int) -> bytes:
        """The places in scratch memory that begins at `address`, as a record has them."""
        return struct.pack(f"{len(self.offsets)}q", *(address + at for at in self.offsets))

    def scratch(self) -> tuple[Scratch, bytes]:
        """Scratch memory for one call, and the places in it; the last ones are kept."""
        try:
            piece = scratch.pop()
        except IndexError:
            piece = 0, 0, None
        if piece[0] < self.size:
            piece = (self.size, *block(self.size))
        known = self._known  # once, and both in one: another thread may put its own there meanwhile
        if known[0] != piece[1]:
            self._known = known = piece[1], self.tail(piece[1])
        return piece, known[1]


def make_plan(
    kind: Kind, target: Target, arrays: Any, T: int, N: int, I: int, H: int, threads: int, recompute: bool
) -> Plan:
    """`arrays` is their dtype, `threads` what may be used."""
    dtype = name_of(arrays)
    gates = gates_dtype(dtype)
    V, item, narrow = target.lanes(dtype), gates.itemsize, gates != arrays
    J, JI = -(-H // V), -(-I // V)
    per_step = N * 3 * H * (I + H)
    if is_small(kind, T, N, I, H):
        threads = 1
    threads, unit_parts = _share(N, H, J, 1 if kind in ROUNDING else item, threads)
    steps = max(1, min(T, (ROWS_BACKWARD if kind == "backward" else ROWS_FORWARD) // max(N, 1)))
    M = _pitch(steps * N, V * item)
    panels = {"panels_ih": J * I * 3 * V, "panels_hh": J * H * 3 * V, "start_gi": J * 3 * V, "start_gh": J * 3 * V}
    places: ForwardPlaces[int] | IntegerPlaces[int] | BackwardPlaces[int]  # elements of each
    if kind in ROUNDING:
        each, row = J * 3 * V, V * digits_of(kind, target).bytes // 4
        places = IntegerPlaces(
            panels_ih=each * JI * V // 4,
            panels_hh=each * J * V // 4,
            **dict.fromkeys(PACKED_ROWS, each),
            one=1,
            gi=M * each,
            state=2 * J * N * V,
            digits_x=M * JI * row,
            size_x=M,
            digits_h=2 * N * J * row,
        )
    elif kind == "forward":
        begun = threads * N * max(gates_shapes(target.registers).groups) * 3 * V
        wide_x = threads * CHUNK * I if narrow else 0
        places = ForwardPlaces(**panels, gi=M * J * 3 * V, state=2 * J * N * V, begun=begun, wide_x=wide_x)
    else:
        together = weight_shapes(target.registers).blocks(V)
        JD = -(-J // together) * together
        places = BackwardPlaces(
            columns_ih=JI * 3 * JD * V * V,
            columns_hh=J * 3 * JD * V * V,
            **(panels if recompute else dict.fromkeys(panels, 0)),
            carry=J * N * V,
            D=4 * JD * M * V,
            X=JI * M * V,
            P=J * M * V,
            gates=4 * M * H if recompute else 0,
            dy_clean=M * H,
            totals=4 * J * V,
            sum_ih=3 * H * I if narrow else 0,
            sum_hh=3 * H * H if narrow else 0,
        )
    begins, at = [], 0
    for place in astuple(places):
        begins.append(at)
        at += -(-place * item // 64) * 64 + 128
    segment = steps * max(1, int(SEGMENT / max(1, per_step * steps)))
    dtypes = id(arrays), id(gates), id(np.dtype(bool))
    sizes = Sizes(*offsets(), *dtypes, T, N, I, H, steps, unit_parts, M)
    return Plan(threads, sizes, gates, segment, tuple(begins), at)


def is_small(kind: Kind, T: int, N: int, I: int, H: int) -> bool:
    """Whether a call is for one thread, whatever threads there are."""
    rows, weights = T * N, 3 * H * (I + H)
    return rows * weights < SMALL and (weights <= NEAR[kind] or rows == 0)


def _pitch(rows: int, width: int) -> int:
    """At least so many rows of `width` bytes, and an odd number of cache lines.

    A product reads the same row of one block after the other. Powers of two apart they would all compete for the same
    few places of a cache.
    """
    in_line = max(1, 64 // width)
    return in_line * (-(-rows // in_line) | 1)


def _share(N: int, H: int, J: int, size: int, threads: int) -> tuple[int, int]:
    """Threads, and into how many parts the units go; the batch goes into threads / parts."""
    if threads == 1:
        return 1, 1
    # the fewest parts whose weights a core's caches hold, if that leaves each thread rows enough
    fitting = (n for n in range(1, J + 1) if threads % n == 0 and 3 * H * H * size <= WEIGHTS_EACH * n)
    parts = next(fitting, threads)
    if parts <= J and ROWS_EACH * threads <= N * parts:
        return threads, parts
    if TOGETHER > 3 * N * H * H:
        return 1, 1
    if threads <= J:
        return threads, threads
    if threads * J <= N:
        return threads // J * J, J
    return max(1, J), max(1, J)
