"""Arrays of any library, integers and booleans too, into host memory and back, by DLPack."""

from __future__ import annotations

from typing import Any

from gru_xp.discovery import load, owner
from gru_xp.errors import DTypeError, StructureError

__all__ = ["from_host", "to_host"]


def to_host(array: Any, argument: str) -> Any:
    """As a NumPy array."""
    backend, numpy = owner(array, argument), load("numpy")
    if backend is numpy:
        return array
    reason = backend.refuses_crossing(array, "copy")
    if reason is not None:
        raise StructureError(f"{argument}: {reason}, so it cannot be taken to host memory")
    try:
        return numpy.from_dlpack(backend.exportable(array, to_host=True), "cpu")
    except (BufferError, RuntimeError, TypeError) as error:  # NumPy has no bfloat16
        raise DTypeError(
            f"{argument}: expected a dtype that NumPy has, got {array.dtype} ({error}); cast it"
        ) from error


def from_host(array: Any, like: Any, argument: str) -> Any:
    """A NumPy array as one of the library and device of `like`."""
    backend, numpy = owner(like, argument), load("numpy")
    if backend is numpy:
        return array
    return backend.from_dlpack(numpy.exportable(array, to_host=False), backend.device_of(like))
