"""The kernel door's object: one layer in one direction over arrays in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from gru_xp.layer import cut_before
from gru_xp.params import CellParams, LayerTape
from gru_xp_cpu.passes.digits import ROUNDING
from gru_xp_cpu.passes.fields import CALL, CONTIGUOUS, GATES, PACKED, STATES, STEP, Kind
from gru_xp_cpu.threads.owner import Owner

from .dtypes import DTYPES
from .fit import fitted, mask, named_weights
from .kernel import build, plan_of
from .narrow import FixedCell, IntegerCell, pack_narrow
from .packed import PackedCell, pack

if TYPE_CHECKING:
    from gru_xp.interfaces import Call, Level, Options, Save
    from gru_xp.narrow import Narrow
    from gru_xp_cpu.emit.target import DType

__all__ = ["CpuLayer", "unusable", "warmup"]

#: what Python raises where the shape or the dtype is asked of something else than such an array as kernels take
UNFIT = AttributeError, KeyError, TypeError, ValueError


class CpuLayer:
    """Fused inference, forward and backward for NumPy arrays, as `gru_xp.kernels.LayerKernel`.

    `owner` is the library on whose threads they run, None for workers of ours.
    """

    name = "cpu"
    level: Level = "layer"
    serves_integers = True

    def __init__(self, owner: Owner | None = None):
        self.owner = owner

    def refuses(self, call: Call, /) -> str | None:
        """Why not, or None."""
        if call.dtype not in DTYPES:
            return f"computes in {' and '.join(DTYPES)}, not in {call.dtype}"
        if not call.spec.reset_after:
            return "has only the equations with the reset gate after the product"
        if not call.spec.standard_gates:
            return "has only sigmoid and tanh, and no clip"
        if call.lengths and call.spec.padding != "zero":
            return "writes zeros into the padding"
        if call.recording:
            return "the arrays are recorded or traced"
        device = call.backend.device_name(call.device)
        if device.partition(":")[0] != "cpu":
            return f"works in host memory, not on {device}"
        return unusable()

    def pack(self, w: CellParams, /) -> CellParams:
        """The same weights, copied and packed, for inference again and again; everything else takes them too."""
        return pack(w)

    def pack_narrow(self, w: CellParams, narrow: Narrow, scales: CellParams | None, /) -> CellParams:
        """The same for weights that `quantize` made."""
        return pack_narrow(w, narrow, scales)

    def warmup(self) -> str:
        """As the function `warmup`."""
        return warmup()

    def stream(self, params: tuple[tuple[CellParams, ...], ...], batch_size: int, /) -> Any:
        """Steps one at a time, where one thread is enough; else None."""
        from .stream import Stream

        stream = Stream(params, batch_size)
        return stream if stream.threads == 1 else None

    def inference(self, x: Any, h0: Any, w: CellParams, options: Options, /) -> tuple[Any, Any]:
        """x (T, N, I), h0 (N, H) -> y (T, N, H), h_n (N, H)."""
        if isinstance(w, FixedCell):
            w = w.fastest(*x.shape[:2])
        return _forward(x, h0, w, options, None, self.owner)[:2]

    def forward(self, x: Any, h0: Any, w: CellParams, options: Options, /) -> tuple[Any, Any, LayerTape]:
        """As `inference`, and the tape. `save="states"` leaves the gates out; backward then computes them again."""
        spec, valid, resets, reverse, save = options
        y, h_n, x, h_prev, r, z, n, u = _forward(x, h0, w, options, save, self.owner)
        return y, h_n, LayerTape(x, h_prev, r, z, n, u, w, valid, resets, spec, reverse)

    def backward(self, tape: LayerTape, dy: Any, dh_n: Any, /) -> tuple[Any, Any, CellParams]:
        """dy (T, N, H) or None, dh_n (N, H) or None -> dx (T, N, I), dh0 (N, H), dw."""
        return _backward(tape, dy, dh_n, self.owner)


@cache
def unusable() -> str | None:
    """Why the kernels cannot run in this process, or None."""
    try:
        from gru_xp_cpu.emit.target import why_none
        from gru_xp_cpu.passes.offsets import unknown

        return why_none() or unknown()
    except Exception as error:  # a library that is there and cannot be loaded fails in any way it likes
        if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("llvmlite"):
            return "llvmlite is not installed (python -m pip install 'gru-xp[cpu]')"
        return f"llvmlite cannot be loaded ({type(error).__name__}: {error})"


def warmup(dtypes: Sequence[DType] = DTYPES) -> str:
    """Compile what has not been compiled on this machine; where it is kept, in words. An `OSError` if it cannot be."""
    from gru_xp import cache

    reason = unusable()
    if reason is not None:
        return f"no fused CPU kernels here: {reason}"
    from gru_xp_cpu.emit.compiler import is_kept, machine
    from gru_xp_cpu.emit.target import current
    from gru_xp_cpu.threads.launching import build as build_threads

    wanted = [(kind, dtype) for dtype in dtypes for kind in CALL if kind not in ROUNDING or dtype == "float32"]
    units: list[Any] = [(kind, dtype, build) for kind, dtype in wanted]
    folder = cache.folder("cpu")
    fault = None if folder is None else cache.fault("cpu")
    for unit in (*units, ("threads", "float32", build_threads)):
        if fault is None:
            machine(current(), *unit)
            fault = None if folder is None or is_kept(current(), *unit) else "the disk may be full"
        if fault is not None:
            raise OSError(
                f"{folder}: the fused CPU kernels cannot be kept there ({fault}); "
                f"set GRU_XP_CACHE_DIR to a folder that is yours alone"
            )
    return f"fused CPU kernels for vectors of {current().bits} bits: {folder or 'in memory only'}"


# ---- the calls ------------------------------------------------------------------------------------------------------


def _forward(
    x: Any, h0: Any, w: CellParams, options: Options, save: Save | None, owner: Owner | None, fit: bool = False
) -> tuple[Any, ...]:
    """y, h_n and, if something is saved, x, h_prev, r, z, n, u for the tape; `fit` arrays are as `fitted` says."""
    _, valid, resets, reverse, _ = options
    try:
        (T, N, I), (_, H), dtype = x.shape, h0.shape, x.dtype
        W_ih, W_hh, b_ih, b_hh = w
        packed = w if isinstance(w, PackedCell) else None
        kind: Kind = packed.kind if packed is not None and save is None else "forward"
        plan = plan_of(kind, dtype, owner, T, N, I, H)
        plain = fit or (type(x) is np.ndarray and type(h0) is np.ndarray)
    except UNFIT:
        if fit:
            raise
        plain = False
    if not plain:
        return _forward(*_fit_forward(x, h0, w, options), save, owner, True)
    shape, new = (T, N, H), plan.empty
    if owner is None:
        y, h_n = new(shape, dtype), np.empty((N, H), dtype)
    else:
        y, h_n = owner.empty(shape, dtype), owner.empty((N, H), dtype)
    clean = h_prev = r = z = n = u = None
    what = STEP
    if save == "all":
        h_prev, what = new(shape, dtype), STEP + STATES + GATES
        gates = plan.gates
        r, z, n, u = new(shape, gates), new(shape, gates), new(shape, gates), new(shape, gates)
    elif save is not None:
        h_prev, what = new(shape, dtype), STEP + STATES
    cut = None if resets is None else _cut_before(valid, resets, reverse, T, N)
    if valid is not None:
        clean = new((T, N, I), dtype)
    memory, tail = plan.scratch()
    if packed is not None and packed.kind == kind:
        tail, what = packed.panels + tail[len(packed.panels) :], what + PACKED
    arrays = x, h0, W_ih, W_hh, b_ih, b_hh, y, h_n, h_prev, r, z, n, u, clean, valid, cut
    first = 0
    while True:
        last = first + plan.segment
        if last > T:
            last = T
        misfits = plan.run(plan.head + plan.pack(first, last, reverse, what, id(arrays)) + tail)
        first = last
        if first == T or misfits:
            break
    plan.keep(memory)
    if misfits and fit:
        return _from_any_state(x, h0, w, options, owner)
    if misfits:
        return _forward(*_fit_forward(x, h0, w, options), save, owner, True)
    return y, h_n, x if clean is None else clean, h_prev, r, z, n, u


def _from_any_state(x: Any, h0: Any, w: CellParams, options: Options, owner: Owner | None) -> tuple[Any, ...]:
    """As `_forward`, from a state beyond 1, which no kernel takes that rounds."""
    if isinstance(w, FixedCell):
        return _forward(x, h0, w.floats, options, None, owner, True)
    assert isinstance(w, IntegerCell)
    return *w.plain_inference(x, h0, options), x, *[None] * 5


def _fit_forward(x: Any, h0: Any, w: CellParams, options: Options) -> tuple[Any, Any, CellParams, Options]:
    given = {"x": x, "h0": h0, **named_weights(w), "valid": options.valid}
    x, h0, *weights, valid = fitted("forward", given).values()
    return x, h0, w if isinstance(w, PackedCell) else CellParams(*weights), options._replace(valid=valid)


def _backward(
    tape: LayerTape, dy: Any, dh_n: Any, owner: Owner | None, fit: bool = False
) -> tuple[Any, Any, CellParams]:
    """dx, dh0 and dw; `fit` arrays are as `fitted` says."""
    x, h_prev, r, z, n, u, w, valid, resets, _, reverse = tape
    try:
        (T, N, I), (_, _, H), dtype = x.shape, h_prev.shape, x.dtype
        W_ih, W_hh, b_ih, b_hh = w
        plan = plan_of("backward", dtype, owner, T, N, I, H, r is None)
        flow, dy_row, dy_step = _steps(dy, N, H, dtype)
        plain = fit or (type(x) is np.ndarray and type(h_prev) is np.ndarray and type(flow) is np.ndarray)
    except UNFIT:
        if fit:
            raise
        plain = False
    if not plain:
        return _backward(*_fit_backward(tape, dy, dh_n), owner, True)
    cut = None if resets is None else _cut_before(valid, resets, reverse, T, N)
    new = plan.empty if T * N > 0 else np.zeros
    dx, dh0 = new((T, N, I), dtype), np.empty((N, H), dtype)
    dW_ih, dW_hh = new((3 * H, I), dtype), new((3 * H, H), dtype)
    db_ih = db_hh = None
    if b_ih is not None:
        db_ih, db_hh = new((3 * H,), dtype), new((3 * H,), dtype)
    memory, tail = plan.scratch()
    last = T
    arrays = (
        x, h_prev, r, z, n, u, W_ih, W_hh, b_ih, b_hh, flow, dh_n, valid, cut, dx, dh0, dW_ih, dW_hh, db_ih, db_hh,
    )  # fmt: skip
    while True:
        first = last - plan.segment
        if first < 0:
            first = 0
        misfits = plan.run(plan.head + plan.pack(first, last, reverse, dy_row, dy_step, id(arrays)) + tail)
        last = first
        if last == 0 or misfits:
            break
    plan.keep(memory)
    if misfits:
        assert not fit
        return _backward(*_fit_backward(tape, dy, dh_n), owner, True)
    return dx, dh0, CellParams(dW_ih, dW_hh, db_ih, db_hh)


def _fit_backward(tape: LayerTape, dy: Any, dh_n: Any) -> tuple[LayerTape, Any, Any]:
    head = dict(zip(LayerTape._fields[:6], tape[:6], strict=True))
    found = fitted("backward", {**head, **named_weights(tape.w), "valid": tape.valid}, "tape.")
    given = {"dh_n": dh_n} if dy is None else {"dy": dy, "dh_n": dh_n}
    flows = fitted("backward", {"x": found["x"], "h_prev": found["h_prev"], **given})
    w = CellParams(*(found[name] for name in CellParams._fields))
    return tape._replace(**{name: found[name] for name in (*head, "valid")}, w=w), flows.get("dy"), flows["dh_n"]


# ---- arrays ---------------------------------------------------------------------------------------------------------


def _steps(dy: Any, N: int, H: int, dtype: Any) -> tuple[Any, int, int]:
    """dy (T, N, H) with contiguous rows, and the elements from row to row and from step to step; None is zero."""
    if dy is None:
        return np.zeros(H, dtype), 0, 0
    if dy.flags.num & CONTIGUOUS == CONTIGUOUS:
        return dy, H, N * H
    size = dy.itemsize
    step, row, one = dy.strides
    if one != size or step % size or row % size or step < 0 or row < 0 or not dy.flags.aligned:
        return np.require(dy, dtype, ["C", "A"]), H, N * H
    return dy, row // size, step // size


def _cut_before(valid: Any, resets: Any, reverse: bool, T: int, N: int) -> Any:
    """As `gru_xp.layer.cut_before`: (T, N) booleans with contiguous rows."""
    cut: Any = cut_before(mask("valid", valid, T, N), mask("resets", resets, T, N), reverse, np)
    return np.ascontiguousarray(cut[..., 0])
