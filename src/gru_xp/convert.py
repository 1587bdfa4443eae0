"""Arrays from one library to another."""

from __future__ import annotations

from typing import Any

from .backend import Backend
from .discovery import Place
from .errors import BackendError, DTypeError, GRUError, NotDifferentiableError

__all__ = ["convert"]


def convert(array: Any, source: Backend, target: Place, argument: str) -> Any:
    """The same values in another library or on another device, by DLPack; shares memory where both allow it."""
    if source is target.backend:
        return source.to_device(array, target.device)
    reason = source.refuses_crossing(array, "copy")
    if reason is not None:
        raise NotDifferentiableError(
            f"{argument}: {reason}, so it cannot be taken from {source.name} to {target.backend.name}; "
            f"compute where it is (backend='auto')"
        )
    dtype = source.dtype_name(array.dtype)
    if dtype != "bool" and not target.backend.holds(dtype):
        raise DTypeError(
            f"{argument}: {target.backend.name} has no {dtype} ({', '.join(target.backend.float_names())}); "
            f"cast it, or compute where it is (backend='auto')"
        )
    if dtype in (*source.not_in_dlpack, *target.backend.not_in_dlpack):  # float32 holds what all of these do
        wide = convert(source.cast(array, "float32"), source, target, argument)
        return target.backend.cast(wide, dtype)
    to_host = target.backend.device_name(target.device) == "cpu"
    try:
        moved = target.backend.from_dlpack(source.exportable(array, to_host=to_host), target.device)
    except GRUError:
        raise
    except (AttributeError, BufferError, TypeError, ValueError, RuntimeError) as error:
        raise BackendError(
            f"{argument}: {source.name} could not give it to {target.backend.name} ({error}); "
            f"compute where the arrays are (backend='auto'), all of them of one library"
        ) from error
    if target.backend.dtype_name(moved.dtype) != dtype:
        raise DTypeError(f"{argument}: {target.backend.name} made {moved.dtype} of {dtype}")
    return moved
