"""What is decided before a kernel runs: threads and their shares, blocks of time, the places in scratch memory."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from gru_xp_cpu.passes.shapes import gates_shapes, weight_units

if TYPE_CHECKING:
    from gru_xp_cpu.emit.target import Target

__all__ = ["SMALL", "Plan", "plan"]

#: multiply-adds of a call below which a second thread costs more than it brings: 30 microseconds and more
SMALL = 2_000_000
#: multiply-adds with W_hh in one step below which its units are not shared: meeting costs 0.3 microseconds and more
TOGETHER = 12_000
#: multiply-adds of a step from which the caller rather waits until the others are awake
PATIENT = 4_000_000
#: multiply-adds between two meetings up to which nobody waits a millisecond, however uneven the shares
EVEN = 20_000_000
#: after a kernel that was held up, how many multiply-adds are done alone before the next try: some milliseconds
ALONE = 150_000_000
#: rows (steps times batch) of a block of time
ROWS_FORWARD, ROWS_BACKWARD = 128, 512
#: multiply-adds of one call into native code, between two of which Python can see a Ctrl-C
SEGMENT = 4e9
#: a batch is shared by rows if there are so many for each thread
ROWS_EACH = 8
#: bytes of W_hh that a core may read at each step; beyond it the units are shared, so that each core reads its own part
#: and its nearer caches hold that and what comes by
WEIGHTS_EACH = 1 << 19


class Plan(NamedTuple):
    """Offsets are in bytes, in the order of the kernel's last fields."""

    threads: int
    unit_parts: int
    wait: bool  # whether the caller waits for the other threads before it begins
    alone: int  # how many kernels the caller does alone after one that other programs held up
    steps: int
    pitch: int  # rows from block to block of what has the rows of a block of time
    segment: int  # steps of one call into native code
    offsets: tuple[int, ...]
    size: int


@lru_cache(maxsize=1024)
def plan(kind: str, target: Target, dtype: str, T: int, N: int, I: int, H: int, threads: int, recompute: bool) -> Plan:
    """For `kind` "forward" or "backward"; `threads` is what may be used."""
    V, size = target.lanes(dtype), 4 if dtype == "float32" else 8
    J, K = -(-H // V), -(-I // V)
    per_step = N * 3 * H * (I + H)
    if per_step * T < SMALL:
        threads = 1
    threads, unit_parts = _share(N, H, J, size, threads)
    rows = ROWS_FORWARD if kind == "forward" else ROWS_BACKWARD
    steps = max(1, min(T, rows // max(N, 1)))
    segment = steps * max(1, int(SEGMENT / max(1, per_step * steps)))
    panels = (J * I * 3 * V, J * H * 3 * V, J * 3 * V, J * 3 * V)
    M = _pitch(steps * N, V * size)
    if kind == "forward":
        parts: tuple[int, ...] = (
            *panels,
            M * J * 3 * V,
            2 * J * N * V,
            threads * N * max(gates_shapes(target.registers).groups) * 3 * V,
        )
    else:
        together = max(1, weight_units(target.registers)[0] // V)
        JD = -(-J // together) * together
        depth = 3 * JD * V
        if not recompute:
            panels = (0, 0, 0, 0)
        D = 4 * JD * M * V
        gates = 4 * M * H if recompute else 0
        parts = (K * depth * V, J * depth * V, *panels, J * N * V, D, K * M * V, J * M * V, gates, M * H, 4 * J * V)
    offsets, at = [], 0
    for part in parts:
        offsets.append(at)
        at += -(-part * size // 64) * 64 + 128
    wait = unit_parts == 1 or per_step > PATIENT
    piece = per_step * (steps if unit_parts == 1 else 1)
    alone = 0 if piece > EVEN else min(30, max(2, ALONE // max(1, per_step * T)))
    return Plan(threads, unit_parts, wait, alone, steps, M, segment, tuple(offsets), at)


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
