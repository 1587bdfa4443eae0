"""The fused CPU layer for JAX, inside and outside of `jit`: custom calls of XLA, which run native code alone.

`FORWARD`, `BACKWARD` and `TANGENTS` are operations (see `operations`) on the arrays of a call or a tape in a row. What
they mean the plain layer says; the first two have kernels. The third is the derivative along tangents, which forward
mode runs; reverse mode transposes it, and that is `BACKWARD`.
"""

from __future__ import annotations

import ctypes
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import ad

from gru_xp.cell import Gates
from gru_xp.discovery import load
from gru_xp.interfaces import Call, Level, Options, Save
from gru_xp.layer import cut_before
from gru_xp.params import CellParams, GRUSpec, LayerTape
from gru_xp_cpu import numpy_layer
from gru_xp_cpu.passes.fields import GATES, STATES, STEP, Kind

from .autodiff import Derivable, DifferentiableLayer
from .operations import Operation

if TYPE_CHECKING:
    from gru_xp_cpu.emit.target import DType

__all__ = ["CpuLayer", "kernel"]

GATE_NAMES = ("r", "z", "n", "u")
#: the arrays (T, N, H) that are saved
SAVED: dict[Save | None, tuple[str, ...]] = {None: (), "states": ("h_prev",), "all": ("h_prev", *GATE_NAMES)}


class CpuLayer(Derivable):
    """Fused inference, forward and backward for JAX's arrays on the CPU, as `gru_xp.kernels.LayerKernel`."""

    name = "cpu"
    level: Level = "layer"

    def refuses(self, call: Call, /) -> str | None:
        """Why not, or None. What is traced is taken to be for the platform that JAX has by default."""
        device = call.device
        if device is None:
            if jax.default_backend() != "cpu":
                return "is traced or sharded where JAX computes on another device than the CPU"
            device = jax.devices("cpu")[0]
        elif device.platform == "cpu":
            device = jax.devices("cpu")[0]
        return numpy_layer.refuses(call._replace(device=device, recording=False))

    def warmup(self) -> str:
        """As `gru_xp_cpu.CpuLayer.warmup`."""
        return numpy_layer.warmup()

    def run(self, x: Any, h0: Any, w: CellParams, options: Options, /) -> tuple[Any, Any]:
        """As `inference`, without a derivative of its own."""
        spec, valid, resets, reverse, _ = options
        layout = Layout.of(spec, reverse, None, w, valid, resets)
        y, h_n = FORWARD(*_given(x, h0, *w, valid, resets), layer=self.plain, layout=layout)
        return y, h_n

    def forward(self, x: Any, h0: Any, w: CellParams, options: Options, /) -> tuple[Any, Any, LayerTape]:
        """As `inference`, and the tape. `save="states"` leaves the gates out; backward then computes them again."""
        spec, valid, resets, reverse, save = options
        layout = Layout.of(spec, reverse, save, w, valid, resets)
        y, h_n, *tape = FORWARD(*_given(x, h0, *w, valid, resets), layer=self.plain, layout=layout)
        h_prev, r, z, n, u = tape[:5] if save == "all" else (tape[0], None, None, None, None)
        return y, h_n, LayerTape(tape[-1] if layout.own_x else x, h_prev, r, z, n, u, w, valid, resets, spec, reverse)

    def backward(self, tape: LayerTape, dy: Any, dh_n: Any, /) -> tuple[Any, Any, CellParams]:
        """dy (T, N, H) or None, dh_n (N, H) or None -> dx (T, N, I), dh0 (N, H), dw."""
        if not _is_whole(tape):
            return self.plain.backward(tape, dy, dh_n)
        tape = _of_one_type(tape)
        dy = jnp.zeros_like(tape.h_prev) if dy is None else dy
        dh_n = jnp.zeros_like(tape.h_prev[0]) if dh_n is None else dh_n
        layout, arrays = _flat(tape)
        dx, dh0, *dw = BACKWARD(*arrays, dy, dh_n, layer=self.plain, layout=layout, with_dx=True)
        return dx, dh0, _cell(dw)

    def differentiated(self, x: Any) -> Derivable:
        """As `Derivable.differentiated`: a single step is XLA's, which joins it with the loop around it.

        There the weights' gradients are added up step by step, and a kernel would have to write them out each time.
        """
        return self if x.shape[0] > 1 else self.plain

    def tangents(self, tape: LayerTape, y: Any, h_n: Any, dx: Any, dh0: Any, dw: CellParams, /) -> tuple[Any, Any]:
        """As `DifferentiableLayer.tangents`."""
        layout, arrays = _flat(tape)
        dy, dh_n = TANGENTS(*arrays, *_given(dx, dh0, *dw), layer=self.plain, layout=layout)
        return dy, dh_n

    @cached_property
    def plain(self) -> DifferentiableLayer:
        """What the operations mean."""
        backend = load("jax")
        return DifferentiableLayer(backend, Gates(backend.xp))


kernel = CpuLayer()


# ---- arrays in a row -------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """What the arrays of an operation are, and all else about it that is known beforehand."""

    spec: GRUSpec
    reverse: bool
    save: Save | None  # what the tape has; None where there is none
    bias: bool
    valid: bool
    resets: bool

    @staticmethod
    def of(spec: GRUSpec, reverse: bool, save: Save | None, w: CellParams, valid: Any, resets: Any) -> Layout:
        """Of a call or a tape with these."""
        return Layout(spec, reverse, save, w.b_ih is not None, valid is not None, resets is not None)

    @property
    def weights(self) -> int:
        """How many weights there are."""
        return 4 if self.bias else 2

    @property
    def states(self) -> int:
        """How many arrays (T, N, H) are saved."""
        return len(SAVED[self.save])

    @property
    def own_x(self) -> bool:
        """Whether the tape has an x of its own, without the padding."""
        return self.valid and self.save is not None

    def call(self, arrays: tuple[Any, ...]) -> tuple[Any, Any, CellParams, Any, Any]:
        """x, h0, w, valid, resets."""
        x, h0, *rest = arrays
        return x, h0, _cell(rest[: self.weights]), *self._rows(rest[self.weights :])

    def tape(self, arrays: tuple[Any, ...]) -> tuple[LayerTape, list[Any]]:
        """The tape, and what comes behind it."""
        x, h_prev, *rest = arrays
        gates, rest = (rest[:4], rest[4:]) if self.save == "all" else ([None] * 4, rest)
        w, rest = _cell(rest[: self.weights]), rest[self.weights :]
        r, z, n, u = gates
        tape = LayerTape(x, h_prev, r, z, n, u, w, *self._rows(rest), self.spec, self.reverse)
        return tape, rest[self.valid + self.resets :]

    def _rows(self, rest: list[Any]) -> tuple[Any, Any]:
        following = iter(rest)
        return next(following) if self.valid else None, next(following) if self.resets else None


def _flat(tape: LayerTape) -> tuple[Layout, list[Any]]:
    save: Save = "states" if tape.r is None else "all"
    layout = Layout.of(tape.spec, tape.reverse, save, tape.w, tape.valid, tape.resets)
    return layout, _given(tape.x, tape.h_prev, tape.r, tape.z, tape.n, tape.u, *tape.w, tape.valid, tape.resets)


def _is_whole(tape: LayerTape) -> bool:
    """Whether the arrays of a tape have the shapes that `forward` gives them; the plain layer says what is wrong."""
    (T, N, I), H = tape.x.shape, tape.w.W_hh.shape[1]
    states, rows = _given(tape.h_prev, tape.r, tape.z, tape.n, tape.u), _given(tape.valid, tape.resets)
    whole = all(a.shape == (T, N, H) for a in states) and all(a.shape == (T, N) for a in rows)
    return whole and tape.w.W_ih.shape == (3 * H, I)


def _of_one_type(tape: LayerTape) -> LayerTape:
    """A tape that was kept in other types, in that of x; the gates in the type that is computed in."""

    def cast(a: Any, dtype: Any) -> Any:
        return None if a is None else a.astype(dtype)

    states = {name: cast(getattr(tape, name), _dtype_of(name, tape.x.dtype)) for name in ("h_prev", *GATE_NAMES)}
    rows = {name: cast(getattr(tape, name), bool) for name in ("valid", "resets")}
    return tape._replace(**states, **rows, w=CellParams(*(cast(a, tape.x.dtype) for a in tape.w)))


def _dtype_of(name: str, dtype: Any) -> Any:
    """The type of an array or result of a call by its name, x being of type `dtype`."""
    return load("jax").computed_in(dtype) if name in GATE_NAMES else dtype


def _given(*arrays: Any) -> list[Any]:
    return [a for a in arrays if a is not None]


def _cell(weights: list[Any]) -> CellParams:
    return CellParams(*weights)


# ---- what the operations mean ----------------------------------------------------------------------------------------


def _plain_forward(*arrays: Any, layer: DifferentiableLayer, layout: Layout) -> list[Any]:
    x, h0, w, valid, resets = layout.call(arrays)
    options = Options(layout.spec, valid, resets, layout.reverse, layout.save)
    if layout.save is None:
        return list(layer.run(x, h0, w, options))
    y, h_n, tape = layer.forward(x, h0, w, options)
    return [y, h_n, *_given(tape.h_prev, tape.r, tape.z, tape.n, tape.u), *([tape.x] if layout.own_x else [])]


def _plain_backward(*arrays: Any, layer: DifferentiableLayer, layout: Layout, with_dx: bool) -> list[Any]:
    tape, (dy, dh_n) = layout.tape(arrays)
    dx, dh0, dw = layer.backward(tape, dy, dh_n)
    return _given(dx if with_dx else None, dh0, *dw)


def _plain_tangents(*arrays: Any, layer: DifferentiableLayer, layout: Layout) -> list[Any]:
    tape, (dx, dh0, *dw) = layout.tape(arrays)
    return list(layer.tangents(tape, tape.h_prev, dh0, dx, dh0, _cell(dw)))


def _shapes_forward(x: Any, h0: Any, *_: Any, layer: DifferentiableLayer, layout: Layout) -> list[Any]:
    (T, N, I), H = x.shape, h0.shape[1]
    shapes = {"y": (T, N, H), "h_n": (N, H), **dict.fromkeys(SAVED[layout.save], (T, N, H))}
    if layout.own_x:
        shapes["x_clean"] = (T, N, I)
    return _shaped(shapes, x.dtype)


def _shapes_backward(*arrays: Any, layer: DifferentiableLayer, layout: Layout, with_dx: bool) -> list[Any]:
    tape, (_, dh_n) = layout.tape(arrays)
    return [jax.core.ShapedArray(a.shape, tape.x.dtype) for a in _given(tape.x if with_dx else None, dh_n, *tape.w)]


def _shapes_tangents(*arrays: Any, layer: DifferentiableLayer, layout: Layout) -> list[Any]:
    tape, (_, dh0, *_) = layout.tape(arrays)
    return [jax.core.ShapedArray(a.shape, tape.x.dtype) for a in (tape.h_prev, dh0)]


# ---- the kernels -----------------------------------------------------------------------------------------------------


def _native_forward(*arrays: Any, layer: DifferentiableLayer, layout: Layout) -> list[Any]:
    x, h0, w, valid, resets = layout.call(arrays)
    (T, N, I), H = x.shape, h0.shape[1]
    saved = SAVED[layout.save]
    steps = (T, N, H)
    results = {"y": steps, "h_n": (N, H), **dict.fromkeys(saved, steps)}
    if valid is not None:
        results["x_clean"] = (T, N, I)
    operands = {"x": x, "h0": h0, **w._asdict(), "valid": valid, "cut": _cut(valid, resets, layout.reverse)}
    what = STEP + (STATES if saved else 0) + (GATES if layout.save == "all" else 0)
    found = _custom_call("forward", (T, N, I, H), (0, T, layout.reverse, what), operands, results)
    return found if layout.own_x or valid is None else found[:-1]


def _native_backward(*arrays: Any, layer: DifferentiableLayer, layout: Layout, with_dx: bool) -> list[Any]:
    tape, (dy, dh_n) = layout.tape(arrays)
    (T, N, I), H = tape.x.shape, dh_n.shape[1]
    operands = {name: getattr(tape, name) for name in ("x", "h_prev", "r", "z", "n", "u")}
    operands |= {**tape.w._asdict(), "dy": dy, "dh_n": dh_n, "valid": tape.valid}
    operands["cut"] = _cut(tape.valid, tape.resets, tape.reverse)
    weights = {f"d{name}": a.shape for name, a in tape.w._asdict().items() if a is not None}
    results = {**({"dx": (T, N, I)} if with_dx else {}), "dh0": (N, H), **weights}
    own = (0, T, tape.reverse, H, N * H)
    return _custom_call("backward", (T, N, I, H), own, operands, results, recompute=tape.r is None)


def _cut(valid: Any, resets: Any, reverse: bool) -> Any:
    cut = cut_before(valid, resets, reverse, jnp)
    return None if cut is None else cut[..., 0]


def _custom_call(
    kind: Kind,
    sizes: tuple[int, int, int, int],
    own: tuple[int, ...],
    operands: dict[str, Any],
    results: dict[str, tuple[int, ...]],
    **options: bool,
) -> list[Any]:
    """The results of a kernel; operands that are None are not there."""
    from gru_xp_cpu.calling.xla import call

    operands = {name: a for name, a in operands.items() if a is not None}
    dtype = operands["x"].dtype
    numbers = call(kind, dtype.name, sizes, own, [*operands, *results], **options)
    shapes = _shaped(results, dtype)
    return list(jax.ffi.ffi_call(_target(kind, dtype.name), shapes)(*operands.values(), numbers=numbers))


def _shaped(results: dict[str, tuple[int, ...]], dtype: Any) -> list[Any]:
    """The types of results, x being of type `dtype`."""
    return [jax.core.ShapedArray(shape, _dtype_of(name, dtype)) for name, shape in results.items()]


@cache
def _target(kind: Kind, dtype: DType) -> str:
    """The name under which XLA knows a kernel."""
    from gru_xp_cpu.calling.xla import handler

    name, address = handler(kind, dtype)
    capsule: Any = jax.ffi.pycapsule
    function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address)
    jax.ffi.register_ffi_target(name, capsule(function), platform="cpu")
    return name


# ---- the operations --------------------------------------------------------------------------------------------------


def _rows_forward(layer: DifferentiableLayer, layout: Layout) -> tuple[list[int | None], list[int]]:
    weights: list[int | None] = [None] * layout.weights
    found = [1, 0, *[1] * (layout.states + layout.own_x)]
    return [1, 0, *weights, *[1] * (layout.valid + layout.resets)], found


def _rows_tangents(layer: DifferentiableLayer, layout: Layout) -> tuple[list[int | None], list[int]]:
    weights: list[int | None] = [None] * layout.weights
    tape = [*[1] * (1 + layout.states), *weights, *[1] * (layout.valid + layout.resets)]
    return [*tape, 1, 0, *weights], [1, 0]


def _transposed(cotangents: Any, *arrays: Any, layer: DifferentiableLayer, layout: Layout) -> list[Any]:
    """The transpose of TANGENTS is BACKWARD, without dx where nobody asks for it."""
    _, linear = layout.tape(arrays)
    tape = arrays[: len(arrays) - len(linear)]
    asked = [isinstance(a, ad.UndefinedPrimal) for a in linear]
    given = *tape, *map(ad.instantiate_zeros, cotangents)
    found = BACKWARD(*given, layer=layer, layout=layout, with_dx=asked[0])
    found = found if asked[0] else [None, *found]
    wanted = [d if needed else None for needed, d in zip(asked, found, strict=True)]
    return [None] * len(tape) + wanted


FORWARD = Operation("forward", _plain_forward, _shapes_forward, _native_forward, _rows_forward)
BACKWARD = Operation("backward", _plain_backward, _shapes_backward, _native_backward)
TANGENTS = Operation("tangents", _plain_tangents, _shapes_tangents, rows=_rows_tangents)
ad.primitive_transposes[TANGENTS.primitive] = _transposed
