"""Inference step by step: by what a kernel has made ready for it, else as sequences of one step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from .arguments import STEP, Arguments, check
from .backend import Backend
from .checks import assert_shape
from .discovery import known_owner, owner
from .errors import DTypeError, MixedArraysError, ShapeError, StructureError
from .params import GRUSpec
from .plan import infer, planned
from .prepared import PreparedParams
from .selection import variables

__all__ = ["Stepping"]

MOST_STREAMS = 64  # kinds of steps, by shape and dtype, of which one model keeps the streams


class Stepping:
    """A model's parameters, and the streams that kernels have made for them."""

    def __init__(self, own: PreparedParams, spec: GRUSpec):
        self.own, self.spec = own, spec
        self._streams: dict[type, dict[Hashable, list[_Streams]]] = {}  # by type of array and by what is selected
        self._tried: set[Hashable] = set()

    def step(self, x_t: Any, state: Any, reset: Any, out: Any, backend: str | Backend | None) -> tuple[Any, Any]:
        """Compute `GRU.step`."""
        if reset is None and backend is None:
            of_type = self._streams.get(type(x_t))
            if of_type is not None:
                for streams in of_type.get(variables(), ()):
                    found = streams.advance(x_t, state, out)
                    if found is not None:
                        return found
        if self.own.sizes.D == 2:
            raise StructureError(
                "step: expected a model in one direction; the reverse direction of this one needs the whole sequence"
            )
        if self.spec.reverse:
            raise StructureError("step: expected a model that runs forwards in time; this one has reverse=True")
        source = owner(x_t, "x_t")
        if reset is not None:
            reset = _one_step(reset, x_t.shape[:-1])
        arguments = Arguments(x_t[None, ...], self.own, state, resets=reset)
        if out is not None:
            rows, sizes = x_t.shape[:-1], self.own.sizes
            _assert_out(out, source, ((*rows, sizes.H), (sizes.L, *rows, sizes.H)), x_t.dtype)
        if reset is None and backend is None and state is not None and x_t.ndim == 2:
            self._try_stream(x_t, state, arguments)
        y, state = infer("gru", arguments, self.spec, backend, STEP)
        return (y[0, ...], state) if out is None else _write(out, (y[0, ...], state))

    def _try_stream(self, x_t: Any, state: Any, arguments: Arguments) -> None:
        """Have a kernel make a stream for such arrays, once."""
        source = known_owner(type(x_t))
        key = None if source is None else source.key((x_t, state))
        if key is None:
            return
        selected = variables()
        if (key, selected) in self._tried:
            return
        streams = self._made(arguments)
        if len(self._tried) >= MOST_STREAMS:
            self._tried.clear()
            self._streams.clear()
        self._tried.add((key, selected))
        if streams is not None:
            self._streams.setdefault(type(x_t), {}).setdefault(selected, []).append(streams)

    def _made(self, arguments: Arguments) -> _Streams | None:
        """Return what makes steps for such arrays, which are checked once; None where no kernel has that."""
        checked = check("inference", arguments, self.spec, None, None, STEP)
        plan = planned(checked)
        kernel: Any = plan.choice.kernel
        if not plan.as_is or checked.prepared is None or not hasattr(kernel, "stream"):
            return None
        make = partial(kernel.stream, checked.prepared.packed_for(kernel), checked.x.shape[1])
        first = make()
        return None if first is None else _Streams(first, make)


class _Streams:
    """A kernel's streams for steps of one kind: as many as threads have stepped at the same time.

    Each serves one thread at a time, which takes it out; so it does not matter which thread comes, or has come before.
    """

    def __init__(self, first: Any, make: Callable[[], Any]):
        self._free, self._make = deque([first]), make

    def advance(self, x_t: Any, state: Any, out: Any) -> Any:
        """One step, into `out` if it is given; None for other arrays than those that a stream is for."""
        try:
            stream = self._free.pop()
        except IndexError:
            stream = self._make()
        try:
            return stream.advance(x_t, state, out)
        finally:
            self._free.append(stream)


def _one_step(reset: Any, rows: tuple[int, ...]) -> Any:
    """The resets (N,) of one step, or one boolean without a batch, as those of a sequence of one step."""
    if isinstance(reset, list | tuple):
        if rows != (len(reset),):
            letters = "(N,)" if rows else "()"
            raise ShapeError(f"reset: expected {letters} = {rows}, got {len(reset)} values; as x_t has")
        return [list(reset)]
    if isinstance(reset, bool) or not hasattr(reset, "shape"):
        return [reset] if rows == () else [[reset] * rows[0]]
    assert_shape(reset, "reset", "(N,)" if rows else "()", rows, "as x_t has")
    return reset[None, ...]


def _assert_out(out: Any, source: Backend, shapes: tuple[tuple[int, ...], tuple[int, ...]], dtype: Any) -> None:
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


def _write(out: Any, results: tuple[Any, Any]) -> Any:
    """The results, written into `out`."""
    for array, result in zip(out, results, strict=True):
        array[...] = result
    return out
