"""Scratch memory, one piece per Python thread, kept from call to call unless it is large."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

__all__ = ["block", "scratch"]

#: bytes that a thread keeps at most
KEPT = 256 << 20
_own = threading.local()


def scratch(size: int) -> tuple[int, Any]:
    """The address of `size` bytes, at the start of a page, and what has to stay alive as long as they are used."""
    kept: tuple[int, int, Any] | None = getattr(_own, "kept", None)
    if kept is None or kept[0] < size:
        _own.kept = None  # before the new one is there, not after
        kept = (size, *block(size))
        if size <= KEPT:
            _own.kept = kept
    return kept[1], kept[2]


def block(size: int) -> tuple[int, Any]:
    """New memory: the address, at the start of a page, and what has to stay alive."""
    memory = np.empty(size + 4096, np.uint8)
    address: int = memory.ctypes.data
    return address + -address % 4096, memory
