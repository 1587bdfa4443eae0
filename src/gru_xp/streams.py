"""The steps of a stream: who makes them, and where results go that a caller has made room for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .backend import Backend
from .checks import assert_shape
from .discovery import owner
from .errors import DTypeError, MixedArraysError, StructureError

__all__ = ["Streams", "assert_out", "write"]


class Streams:
    """A kernel's streams for steps of one kind: as many as threads have stepped at the same time.

    Each serves one thread at a time, which takes it out; so it does not matter which thread comes, or has come before.
    """

    def __init__(self, first: Any, make: Callable[[], Any]):
        self._free, self._make = deque([first]), make

    def advance(self, x_t: Any, state: Any, out: Any) -> tuple[Any, Any]:
        """One step, into `out` if it is given."""
        try:
            stream = self._free.pop()
        except IndexError:
            stream = self._make()
        try:
            return stream.advance(x_t, state) if out is None else stream.advance(x_t, state, out)
        finally:
            self._free.append(stream)


def assert_out(out: Any, source: Backend, shapes: tuple[tuple[int, ...], tuple[int, ...]], dtype: Any) -> None:
    """`out` is a pair of arrays that a step's y and next state fit into."""
    if not isinstance(out, tuple) or len(out) != 2:
        raise StructureError(f"out: expected a tuple of two arrays, for y_t and the state, got {type(out).__name__}")
    if not source.writes:
        raise StructureError(
            f"out: expected None, because arrays of {source.name} cannot be written to; take what step returns"
        )
    for index, (array, shape) in enumerate(zip(out, shapes, strict=True)):
        name = f"out[{index}]"
        if owner(array, name) is not source:
            raise MixedArraysError(f"{name}: expected an array of {source.name}, as x_t, got {type(array).__name__}")
        assert_shape(array, name, ("y_t", "state")[index], shape, "as step returns it")
        if array.dtype != dtype:
            raise DTypeError(f"{name}: expected {dtype}, as x_t has, got {array.dtype}")


def write(out: Any, results: tuple[Any, Any]) -> Any:
    """The results, written into `out`."""
    for array, result in zip(out, results, strict=True):
        array[...] = result
    return out
