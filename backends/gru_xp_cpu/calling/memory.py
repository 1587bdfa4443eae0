"""Memory that is used again: scratch memory for kernels, and the large arrays that calls return.

A new large array costs more than its allocation: the system clears each of its pages when it is first touched, and the
C library gives the memory of arrays from about 128 KiB on back to the system when they go. A forward and a backward
pass of (100, 8, 64, 128) took twice as long for it. So large results are in pieces of memory that come back here when
the last array that uses them is gone, and a training loop allocates nothing large after its first iterations. At most
`KEPT` bytes wait to be used again.
"""

from __future__ import annotations

from collections import deque
from math import prod
from typing import Any, TypeAlias

import numpy as np

__all__ = ["KEPT", "LARGE", "Scratch", "block", "empty", "release", "scratch"]

#: bytes: what waits at most, of results in all and of a piece of scratch memory; what counts as large; a huge page
KEPT, LARGE, HUGE = 256 << 20, 1 << 17, 2 << 20
_waiting: dict[int, list[Any]] = {}  # by size
_bytes = [0]  # of all that wait, nearly: two threads may miss each other's change

#: bytes, the address, and what holds them
Scratch: TypeAlias = tuple[int, int, Any]
#: scratch memory that no call uses: as many pieces as threads have computed at the same time, of the last 16 of them.
#: A call takes one out, so that a signal handler or a finalizer that computes between two of its kernels takes another
scratch: deque[Scratch] = deque(maxlen=16)


def block(size: int) -> tuple[int, Any]:
    """New memory: the address and what has to stay alive. Large pieces begin where a huge page can."""
    page, least = (HUGE, 2 * HUGE) if size >= HUGE // 2 else (4096, 0)  # NumPy asks for huge pages from 4 MiB on
    memory = np.empty(max(size, least) + page, np.uint8)
    address: int = memory.ctypes.data
    return address + -address % page, memory


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """As `numpy.empty`."""
    size = prod(shape) * dtype.itemsize
    if size < LARGE:
        return np.empty(shape, dtype)
    array = np.asarray(_Piece(size, shape, dtype))
    return array if array.dtype is dtype else array.view(dtype)  # NumPy's interface knows bfloat16 as two bytes


def release() -> None:
    """Give back what waits to be used again."""
    _forget()
    scratch.clear()


def _forget() -> None:
    _waiting.clear()
    _bytes[0] = 0


class _Piece:
    """The memory of a large array."""

    def __init__(self, size: int, shape: tuple[int, ...], dtype: Any):
        self.size = size
        try:
            self.place = _waiting[size].pop()
            _bytes[0] -= size
        except (KeyError, IndexError):
            self.place = block(size)
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": (self.place[0], False)}

    def __del__(self) -> None:
        # no lock: this may run at any moment, in any thread, even while another of these runs
        if self.size > KEPT:
            return
        if _bytes[0] + self.size > KEPT:
            _forget()
        _waiting.setdefault(self.size, []).append(self.place)
        _bytes[0] += self.size
