"""Inference step by step: everything but the computation is done once, before the first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gru_xp.errors import DTypeError, RangeError, ShapeError, StructureError
from gru_xp.params import CellParams
from gru_xp_cpu.passes.fields import PACKED, STEP

from .fit import fitted, named_weights
from .kernel import plan_of
from .memory import block
from .narrow import FixedCell
from .packed import PackedCell, pack

__all__ = ["Stream"]


class Stream:
    """A stack of layers in one direction that takes one time step at a time and keeps its state.

    >>> import numpy as np
    >>> from gru_xp import CellParams
    >>> rng = np.random.default_rng(0)
    >>> w = CellParams(rng.normal(size=(12, 3)), rng.normal(size=(12, 4)), rng.normal(size=12), rng.normal(size=12))
    >>> stream = Stream(((w,),))
    >>> stream.step(rng.normal(size=(1, 3))).shape
    (1, 4)

    `params` as for `gru`, L layers in one direction, of any dtype that the kernels take; they are copied. `state`
    (L, N, H) may be read and written to between the steps; zeros at first. A stream serves one thread at a time.
    """

    def __init__(self, params: tuple[tuple[CellParams, ...], ...], batch_size: int = 1):
        if any(len(directions) != 1 for directions in params):
            raise StructureError("params: a stream has one direction; a bidirectional layer needs the whole sequence")
        if not isinstance(batch_size, int) or batch_size < 0:
            raise RangeError(f"batch_size: expected a number of rows, got {batch_size!r}")
        cells = [_packed(w, batch_size) for (w,) in params]
        H, I, N = cells[0].W_hh.shape[1], cells[0].W_ih.shape[1], batch_size
        self._dtype = cells[0].W_hh.dtype
        x = np.zeros((1, N, I), self._dtype)
        self.state = np.zeros((len(cells), N, H), self._dtype)
        self._x, self._x_shape, self._state_shape = x[0], (N, I), self.state.shape
        self._outputs = [np.zeros((1, N, H), self._dtype) for _ in cells]
        self._cells, self._calls, self.threads = cells, list[tuple[Callable[[bytes], int], bytes]](), 1
        self._kept: list[Any] = []
        for i, (w, h, y) in enumerate(zip(cells, self.state, self._outputs, strict=True)):
            fitted("forward", {"x": x, "h0": h, **named_weights(w)}, f"params[{i}][0].")
            plan = plan_of(w.kind, self._dtype, None, 1, N, x.shape[2], H)
            address, memory = block(plan.size)
            arrays = x, h, *w, y, h, *([None] * 8)
            fields = plan.pack(0, 1, 0, STEP + PACKED, id(arrays))
            whole = plan.head + fields + w.panels + plan.tail(address)[len(w.panels) :]
            self._kept += [memory, arrays]
            self._calls.append((plan.run, whole))
            self.threads = max(self.threads, plan.threads)
            x = y
        self._y = self._outputs[-1][0]

    def step(self, x: Any) -> Any:
        """x (N, I) -> y (N, H), a new array."""
        if not isinstance(x, np.ndarray):
            raise StructureError(f"x: expected an array of NumPy's, got {type(x).__name__}")
        x = np.asarray(x)  # a subclass may say that it has another shape
        if x.shape != self._x_shape:
            raise ShapeError(f"x: expected (N, I) = {self._x_shape}, got {x.shape}; N is the stream's batch_size")
        if x.dtype != self._dtype:
            raise DTypeError(f"x: expected {self._dtype}, as the parameters, got {x.dtype}")
        self._x[...] = x
        if self._computed():
            return self._y.copy()
        raise RangeError(f"state: expected numbers within [-1, 1], as {self._cells[0].kind} kernels take, got others")

    def advance(self, x: Any, state: Any, out: Any = None) -> tuple[Any, Any] | None:
        """x (N, I), state (L, N, H) -> y (N, H), the next state: a step for a caller that keeps the state itself.

        They are new arrays, or the two of `out`. None, and nothing is done, for other arrays than those of these shapes
        and of the parameters' dtype that are plainly NumPy's, or where 8-bit weights meet a state beyond 1.
        """
        dtype = self._dtype
        if not (
            type(x) is np.ndarray is type(state)
            and (x.dtype is dtype or x.dtype == dtype)
            and (state.dtype is dtype or state.dtype == dtype)
            and x.shape == self._x_shape
            and state.shape == self._state_shape
            and (out is None or self._takes(out))
        ):
            return None
        self.state[...] = state
        self._x[...] = x
        if not self._computed():
            return None
        if out is None:
            return self._y.copy(), self.state.copy()
        y, next_state = out
        y[...] = self._y
        next_state[...] = self.state
        return y, next_state

    def _computed(self) -> bool:
        """Compute a step; False if the state is not within [-1, 1] and the weights are of 8 bits."""
        return not any(call(fields) for call, fields in self._calls)

    def _takes(self, out: Any) -> bool:
        return (
            type(out) is tuple
            and [type(a) for a in out] == [np.ndarray] * 2
            and [a.shape for a in out] == [self._y.shape, self._state_shape]
            and all(a.dtype == self._dtype for a in out)
        )

    def reset(self) -> None:
        """Begin a new sequence."""
        self.state[...] = 0


def _packed(w: CellParams, rows: int) -> PackedCell:
    if isinstance(w, FixedCell):
        return w.fastest(1, rows)
    return w if isinstance(w, PackedCell) else pack(w)
