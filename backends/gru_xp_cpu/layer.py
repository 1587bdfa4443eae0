"""The kernel door's object: one layer in one direction over arrays in host memory."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Any

import numpy as np
from gru_xp.params import CellParams, GRUSpec, LayerTape

from .fields import BACKWARD, FORWARD
from .memory import block, scratch

if TYPE_CHECKING:
    from gru_xp.kernels import Call, Level

    from .plan import Plan

__all__ = ["AdaptedLayer", "CpuLayer"]

DTYPES = ("float32", "float64")


class PackedCell(CellParams):
    """Weights of which the kernels' panels have been made; copies, so that they cannot become stale."""

    panels: tuple[int, ...]  # the addresses of the last fields but two
    memory: Any


class CpuLayer:
    """Fused inference, forward and backward for NumPy arrays, as `gru_xp.kernels.LayerKernel`."""

    name = "cpu"
    level: Level = "layer"

    def refuses(self, call: Call, /) -> str | None:
        """Why not, or None."""
        if call.dtype not in DTYPES:
            return f"computes in {' and '.join(DTYPES)}, not in {call.dtype}"
        if not call.spec.reset_after:
            return "has only the equations with the reset gate after the product"
        if call.recording:
            return "the arrays are recorded or traced"
        device = call.backend.device_name(call.device)
        if device.partition(":")[0] != "cpu":
            return f"works in host memory, not on {device}"
        return unusable()

    def prepare(self, w: CellParams, /) -> CellParams:
        """The same weights, copied and packed, for inference again and again; everything else takes them too."""
        return pack(w)

    def inference(
        self, x: Any, h0: Any, w: CellParams, /, *, spec: GRUSpec, valid: Any, resets: Any, reverse: bool
    ) -> tuple[Any, Any]:
        """x (T, N, I), h0 (N, H) -> y (T, N, H), h_n (N, H). `valid` and `resets` are (T, N) booleans or None."""
        return _forward(x, h0, w, valid, resets, reverse, None)[:2]

    def forward(
        self, x: Any, h0: Any, w: CellParams, /, *, spec: GRUSpec, valid: Any, resets: Any, reverse: bool, save: str
    ) -> tuple[Any, Any, LayerTape]:
        """As `inference`, and the tape. `save="states"` leaves the gates out; backward then computes them again."""
        y, h_n, x, h_prev, gates = _forward(x, h0, w, valid, resets, reverse, save)
        return y, h_n, LayerTape(x, h_prev, *gates, w, valid, resets, spec, reverse)

    def backward(self, tape: LayerTape, dy: Any, dh_n: Any, /) -> tuple[Any, Any, CellParams]:
        """dy (T, N, H) or None, dh_n (N, H) or None -> dx (T, N, I), dh0 (N, H), dw."""
        return _backward(tape, dy, dh_n)


class AdaptedLayer(CpuLayer):
    """The same for another library whose arrays on the CPU can be seen as NumPy arrays without a copy.

    `to_numpy` and `from_numpy` take and give one array; neither is asked for None.
    """

    def __init__(self, to_numpy: Callable[[Any], Any], from_numpy: Callable[[Any], Any]):
        self._in, self._out = to_numpy, from_numpy

    def _take(self, a: Any) -> Any:
        return None if a is None else self._in(a)

    def _weights(self, w: CellParams) -> CellParams:
        return CellParams(*(self._take(a) for a in w))

    def inference(
        self, x: Any, h0: Any, w: CellParams, /, *, spec: GRUSpec, valid: Any, resets: Any, reverse: bool
    ) -> tuple[Any, Any]:
        take = self._take
        y, h_n, *_ = _forward(take(x), take(h0), self._weights(w), take(valid), take(resets), reverse, None)
        return self._out(y), self._out(h_n)

    def forward(
        self, x: Any, h0: Any, w: CellParams, /, *, spec: GRUSpec, valid: Any, resets: Any, reverse: bool, save: str
    ) -> tuple[Any, Any, LayerTape]:
        take, give = self._take, self._out
        given = take(x)
        y, h_n, used, h_prev, gates = _forward(given, take(h0), self._weights(w), take(valid), take(resets), reverse, save)
        tape = LayerTape(
            x if used is given else give(used), give(h_prev), *(g if g is None else give(g) for g in gates),
            w, valid, resets, spec, reverse,
        )  # fmt: skip
        return give(y), give(h_n), tape

    def backward(self, tape: LayerTape, dy: Any, dh_n: Any, /) -> tuple[Any, Any, CellParams]:
        take, give = self._take, self._out
        seen = LayerTape(
            *(take(a) for a in (tape.x, tape.h_prev, tape.r, tape.z, tape.n, tape.u)),
            self._weights(tape.w), take(tape.valid), take(tape.resets), tape.spec, tape.reverse,
        )  # fmt: skip
        dx, dh0, dw = _backward(seen, take(dy), take(dh_n))
        return give(dx), give(dh0), CellParams(*(g if g is None else give(g) for g in dw))


@cache
def unusable() -> str | None:
    """Why the kernels cannot run in this process, or None."""
    try:
        from .target import why_none
    except ImportError:
        return "llvmlite is not installed (pip install 'gru_xp[cpu]')"
    return why_none()


# ---- the calls ----------------------------------------------------------------------------------------------------------

STEP, STATES, GATES = 1, 2, 4


def _forward(x: Any, h0: Any, w: CellParams, valid: Any, resets: Any, reverse: bool, save: str | None) -> tuple[Any, ...]:
    """y, h_n and, if something is saved, x, h_prev and (r, z, n, u) for the tape."""
    run = kernel("forward", x.dtype.char)
    (T, N, I), H = x.shape, h0.shape[1]
    x, x_row = _rows(x)
    h0 = _compact(h0)
    W_ih, W_hh, b_ih, b_hh = w
    packed = w.panels if type(w) is PackedCell else None
    if packed is None:
        W_ih, W_hh, b_ih, b_hh = _compact(W_ih), _compact(W_hh), _compact(b_ih), _compact(b_hh)
    dtype, empty = x.dtype, np.empty
    y, h_n = empty((T, N, H), dtype), empty((N, H), dtype)
    clean = h_prev = r = z = n = u = None
    what = STEP
    if save is not None:
        h_prev, what = empty((T, N, H), dtype), STEP + STATES
        if save == "all":
            r, z, n, u = (empty((T, N, H), dtype) for _ in range(4))
            what = STEP + STATES + GATES
    cut = _cut_before(valid, resets, reverse)
    if valid is not None:
        valid, clean = _compact(valid), empty((T, N, I), dtype)
    plan = run.plan(T, N, I, H, False)
    address, memory = scratch(plan.size)
    a = address_of
    places = [address + at for at in plan.offsets]
    if packed:
        places[:4] = packed
    first = 0
    while True:
        last = min(T, first + plan.segment)
        run(plan.threads, DATA_AT[0], T, N, I, H, first, last, reverse, what, plan.steps, plan.unit_parts, valid is not None,
            cut is not None, b_ih is not None, not packed, a(x), x_row, a(h0), a(W_ih), a(W_hh), a(b_ih), a(b_hh), a(y), H, a(h_n),
            a(h_prev), a(r), a(z), a(n), a(u), a(clean), a(valid), a(cut), *places)  # fmt: skip
        first = last
        if first == T:
            break
    return y, h_n, x if clean is None else clean, h_prev, (r, z, n, u)


def _backward(tape: LayerTape, dy: Any, dh_n: Any) -> tuple[Any, Any, CellParams]:
    x, h_prev = tape.x, _compact(tape.h_prev)
    run = kernel("backward", x.dtype.char)
    (T, N, I), H, dtype = x.shape, h_prev.shape[2], x.dtype
    x, x_row = _rows(x)
    r, z, n, u = (_compact(a) for a in (tape.r, tape.z, tape.n, tape.u))
    W_ih, W_hh, b_ih, b_hh = (_compact(a) for a in tape.w)
    cut, valid, dh_n = _cut_before(tape.valid, tape.resets, tape.reverse), _compact(tape.valid), _compact(dh_n)
    empty = np.empty if T * N else np.zeros
    dx, dh0, dW_ih, dW_hh = (empty(shape, dtype) for shape in ((T, N, I), (N, H), (3 * H, I), (3 * H, H)))
    db_ih = db_hh = None
    if b_ih is not None:
        db_ih, db_hh = empty((3 * H,), dtype), empty((3 * H,), dtype)
    dy_row = dy_step = 0
    if dy is None:
        dy = np.zeros(H, dtype)
    else:
        dy, dy_row, dy_step = _steps(dy)
    plan = run.plan(T, N, I, H, r is None)
    address, memory = scratch(plan.size)
    a = address_of
    last = T
    while True:
        first = max(0, last - plan.segment)
        run(plan.threads, DATA_AT[0], T, N, I, H, first, last, tape.reverse, plan.steps, plan.unit_parts, valid is not None,
            cut is not None, b_ih is not None, r is None, dh_n is not None, last == T, a(x), x_row, a(h_prev), a(r), a(z), a(n),
            a(u), a(W_ih), a(W_hh), a(b_ih), a(b_hh), a(dy), dy_row, dy_step, a(dh_n), a(valid), a(cut), a(dx), a(dh0), a(dW_ih),
            a(dW_hh), a(db_ih), a(db_hh), *(address + at for at in plan.offsets))  # fmt: skip
        last = first
        if last == 0:
            break
    return dx, dh0, CellParams(dW_ih, dW_hh, db_ih, db_hh)


def pack(w: CellParams) -> PackedCell:
    """Copy and pack weights."""
    packed = PackedCell(*(None if a is None else np.array(a, a.dtype.newbyteorder("="), order="C") for a in w))
    for array in packed:
        if array is not None:
            array.flags.writeable = False
    W_ih, W_hh, b_ih, b_hh = packed
    (_, I), H = W_ih.shape, W_hh.shape[1]
    run = kernel("forward", W_ih.dtype.char)
    plan = run.plan(0, 0, I, H, False)
    address, packed.memory = block(plan.size)
    places = [address + at for at in plan.offsets]
    a = address_of
    # nothing but the preparation runs when there are no steps and no rows
    run(1, DATA_AT[0], 0, 0, I, H, 0, 0, 0, STEP, 1, 1, 0, 0, b_ih is not None, 1, 0, I, 0, a(W_ih), a(W_hh), a(b_ih), a(b_hh),
        0, H, 0, 0, 0, 0, 0, 0, 0, 0, 0, *places)  # fmt: skip
    packed.panels = tuple(places[:4])
    return packed


class _Kernel:
    """A kernel for one target and dtype, called with the values of its fields."""

    def __init__(self, kind: str, dtype: str):
        from . import threads
        from .compiler import machine
        from .plan import SMALL, plan
        from .target import current

        self._target, self._kind, self._dtype = current(), kind, dtype
        fields = FORWARD if kind == "forward" else BACKWARD
        self.pack = Struct(f"{len(fields.split())}q").pack
        self._address = machine(self._target, kind, dtype).address(kind)
        number = ctypes.c_int64
        self.alone = ctypes.CFUNCTYPE(None, ctypes.c_char_p, number, number, number)(self._address)
        self._plan, self._small, self._threads, self._run = plan, SMALL, threads.thread_count, threads.run

    def plan(self, T: int, N: int, I: int, H: int, recompute: bool) -> Plan:
        """Where things lie, and on how many threads to run."""
        threads = 1 if T * N * 3 * H * (I + H) < self._small else self._threads()
        return self._plan(self._kind, self._target, self._dtype, T, N, I, H, threads, recompute)

    def __call__(self, threads: int, *values: int) -> None:
        if threads == 1:
            self.alone(self.pack(*values), 0, 1, 0)
        else:
            self.together(self.pack(*values), threads)

    def together(self, fields: bytes, threads: int) -> None:
        """Run on several threads."""
        self._run(self._target, self._address, fields, threads)


@cache
def kernel(kind: str, char: str) -> _Kernel:
    """The kernel "forward" or "backward" for a dtype by its character; compiled, or read from disk, at the first call."""
    return _Kernel(kind, "float32" if char == "f" else "float64")


# ---- arrays -------------------------------------------------------------------------------------------------------------


def address_of(a: Any) -> int:
    """What stands for an array in a kernel's fields: the address of the object, which has to stay alive."""
    return 0 if a is None else id(a)


def _where_data_is() -> int:
    """At which byte of an array object the address of its data stands."""
    a, b = np.empty(3), np.empty((2, 5), np.float32)
    for at in range(8, 128, 8):
        if all(ctypes.c_int64.from_address(id(array) + at).value == array.ctypes.data for array in (a, b)):
            return at
    raise RuntimeError("the layout of NumPy's arrays is unknown")


DATA_AT = [_where_data_is()]


def _compact(a: Any) -> Any:
    """An array in C order, aligned and of native byte order, itself if possible."""
    if a is None:
        return a
    flags = a.flags
    if flags.c_contiguous and flags.aligned and a.dtype.isnative:
        return a
    return np.require(a, a.dtype.newbyteorder("="), ["C", "A"])


def _rows(a: Any) -> tuple[Any, int]:
    """(T, N, K) as rows that lie evenly, and the elements from one to the next."""
    a = _compact(a)
    return a, a.shape[2]


def _steps(a: Any) -> tuple[Any, int, int]:
    """(T, N, H) with compact rows, the elements from row to row and from step to step."""
    size = a.itemsize
    step, row, one = a.strides
    if one != size or step % size or row % size or step < 0 or row < 0 or not a.flags.aligned or not a.dtype.isnative:
        a = _compact(a)
        step, row, one = a.strides
    return a, row // size, step // size


def _cut_before(valid: Any, resets: Any, reverse: bool) -> Any:
    """Where the state is set to zero before a step, as `gru_xp.layer.cut_before`: (T, N) booleans or None."""
    if resets is None:
        return None
    cut = resets if valid is None else resets & valid
    if reverse:
        cut = np.concatenate([cut[1:], np.zeros_like(cut[:1])])
    return _compact(cut)
