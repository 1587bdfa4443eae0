"""What an array library has to say about itself: the class `Backend`, with defaults for any library of the standard.

A backend is a subclass that overrides what its library does differently, named in the entry-point group
`gru_xp.backends` under the name of the library's root module. `backends/README.md` shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, final

from .cell import Gates
from .errors import BackendError
from .layer import Layer
from .stack import Stack

if TYPE_CHECKING:
    from . import interfaces

__all__ = ["HALF", "Backend", "Purpose", "Recorded"]

Step: TypeAlias = "Callable[[Any, tuple[Any, ...]], tuple[Any, tuple[Any, ...]]]"
#: How a library's automatic differentiation watches arrays: not at all; each call as a whole, by `Backend.stack`; the
#: same, while arrays are traced and have no memory; or every single operation, so that only the plain path will do.
Recorded: TypeAlias = Literal["no", "call", "traced", "operations"]

#: What an array is wanted elsewhere for: its values alone, a call whose results come back, or gradients too.
Purpose: TypeAlias = Literal["copy", "compute", "differentiate"]

_NO_CONTEXT = nullcontext()
HALF = ("float16", "bfloat16")
FLOATS = (*HALF, "float32", "float64")


class Backend:
    """An array library: its namespace, devices, the ways in and out, its loop over time, its differentiation."""

    #: the root module of the library, which is also what `backend=` and GRU_XP_BACKEND call it
    name: str
    #: a namespace of the array API standard
    xp: Any
    #: the plain gates and the plain layer; a subclass of `Gates` or `Layer` may do single things faster
    gates_type: ClassVar[type[Gates]] = Gates
    layer_type: ClassVar[type[Layer]] = Layer
    #: whether calls are handed over unchecked, see `whole_call`: for arrays that are lazy or out of core
    takes_whole_calls: ClassVar[bool] = False
    #: floating-point dtypes that this library's arrays can have and its DLPack does not know
    not_in_dlpack: ClassVar[tuple[str, ...]] = ()
    #: whether `array[...] = values` writes to an array
    writes: ClassVar[bool] = True

    def __init__(self, name: str | None = None, xp: Any = None):
        if name is not None:
            self.name, self.xp = name, xp
        self._dtype_names: dict[Any, str] = {}
        self._computed_in: dict[Any, Any] = {}
        self._float_names = tuple(name for name in FLOATS if hasattr(self.xp, name))

    def __repr__(self) -> str:
        return f"<gru_xp backend {self.name}>"

    # ---- arrays -----------------------------------------------------------------------------------------------------

    def owns(self, array: Any) -> bool:
        """Return whether this backend computes with such an array; asked once for each type."""
        return type(array).__module__.partition(".")[0] == self.name

    def canonical(self, array: Any) -> Any:
        """Return the array as the mathematics can take it, usually the array itself."""
        return array

    def float_names(self) -> tuple[str, ...]:
        """Return the names of the floating-point dtypes that the mathematics can use here."""
        return self._float_names

    def holds(self, name: str) -> bool:
        """Return whether arrays can have the floating-point dtype of that name, be it to be computed with elsewhere."""
        return name in self.float_names()

    def cast(self, array: Any, name: str) -> Any:
        """Return the array in the dtype of that name."""
        return self.xp.astype(array, self.dtype(name))

    @final
    def dtype_name(self, dtype: Any) -> str:
        """Return a dtype's name, "float32" and so on, the same in every library and for every byte order."""
        try:
            return self._dtype_names[dtype]
        except KeyError:
            text = str(dtype).rpartition(".")[2]
            name = self._dtype_names[dtype] = str(dtype.name) if text[0] in "<>" else text  # of foreign byte order
            return name

    @final
    def dtype(self, name: str) -> Any:
        """Return the library's dtype of that name."""
        found = getattr(self.xp, name, None)
        if found is None:
            raise BackendError(f"{self.name} has no dtype {name}; it has {', '.join(self.float_names())}")
        return found

    @final
    def computed_in(self, dtype: Any) -> Any:
        """Return the dtype of products, gates and sums for arrays of `dtype`: float32 for 16 bits, else `dtype`."""
        try:
            return self._computed_in[dtype]
        except KeyError:
            wide = self._computed_in[dtype] = self.xp.float32 if self.dtype_name(dtype) in HALF else dtype
            return wide

    # ---- devices ----------------------------------------------------------------------------------------------------

    def devices(self) -> Mapping[str, Any]:
        """Return the library's device objects by their names, the default first; "cpu" alone if it reports none."""
        info = getattr(self.xp, "__array_namespace_info__", None)
        found = () if info is None else (info().default_device(), *info().devices())
        return {self.device_name(device): device for device in found if device is not None} or {"cpu": "cpu"}

    def device_name(self, device: Any) -> str:
        """Return a device's name as users write it, the same in every library: "cpu", "cuda:0", "mps:0"."""
        return str(device)

    def device_of(self, array: Any) -> Any:
        """Return the library's own device object of an array; None where the library chooses (it is traced, say)."""
        return array.device

    def device_beside(self, array: Any) -> Any:
        """Return what to give as `device=` to a function that creates an array to compute with beside this one."""
        return self.device_of(array)

    def beside(self, first: Any, second: Any) -> bool:
        """Return whether two arrays lie where the library can compute with both."""
        return bool(self.device_of(first) == self.device_of(second))

    @final
    def device(self, name: str | None) -> Any:
        """Return the device object of that name, the default for None; "cuda" is the first whose name begins so."""
        devices = self.devices()
        if name is None:
            return next(iter(devices.values()))
        if name in devices:
            return devices[name]
        for full, device in devices.items():
            if full.startswith(f"{name}:"):
                return device
        raise BackendError(f"{self.name} has no device {name!r} here; it has {', '.join(devices)}")

    @final
    def zeros(self, shape: tuple[int, ...], like: Any) -> Any:
        """Return zeros to compute with beside an array, of its dtype."""
        return self.xp.zeros(shape, dtype=like.dtype, device=self.device_beside(like))

    # ---- in and out -------------------------------------------------------------------------------------------------

    def refuses_crossing(self, array: Any, purpose: Purpose) -> str | None:
        """Say why this array cannot be computed with by another library, or return None.

        For any purpose: it is traced, say, or carries a mask or a unit, which would be dropped. For "compute": results
        come back, which would be without its sharding. For "differentiate": it requires a gradient, too.
        """
        carried = next((name for name in ("mask", "unit", "units") if hasattr(array, name)), None)
        if carried is not None:
            return f"carries a {carried.removesuffix('s')}, which would be dropped"
        if purpose != "copy" and hasattr(array, "compute"):
            return "is lazy: .compute() makes an array of it"
        return None

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        """Return the array, or a copy where it is read-only, non-contiguous, byte-swapped or not in host memory."""
        for name in ("todense", "unwrap_numpy"):  # of sparse and ndonnx, where __array__ and __dlpack__ raise
            if hasattr(array, name):
                return getattr(array, name)()
        return array if hasattr(array, "__dlpack__") else array.__array__()

    def from_dlpack(self, array: Any, device: Any) -> Any:
        """Take in an array of another library, writable where this library has writable arrays."""
        for options in ({}, {"device": device}):  # dpnp wants to be told the device
            with suppress(AttributeError, BufferError, RuntimeError, TypeError, ValueError):
                return self.to_device(self.xp.from_dlpack(array, **options), device)
        host = array.__array__() if hasattr(array, "__array__") else array
        return self.xp.asarray(host)  # sparse and cubed have no from_dlpack, and that of ndonnx raises

    def to_device(self, array: Any, device: Any) -> Any:
        """Return the array on another device of the same library."""
        return array if self.device_of(array) == device else array.to_device(device)

    def from_host(self, values: Any, dtype: Any, device: Any) -> Any:
        """Return an array from nested lists of Python numbers."""
        return self.xp.asarray(values, dtype=dtype, device=device)

    def owned(self, array: Any) -> Any:
        """Return a contiguous copy that nobody else can write to as long as it is handed out by `handed_out`."""
        return self.xp.asarray(array, copy=True)

    def handed_out(self, array: Any) -> Any:
        """Return what may be given away of an `owned` array: a read-only view, or a copy where there is none."""
        return self.xp.asarray(array, copy=True)

    # ---- the loop over time -----------------------------------------------------------------------------------------

    def product(self, a: Any, B: Any, bias: Any = None) -> Any:
        """Return a (T, N, K) @ B (K, M) + bias (M,) or None -> (T, N, M), as one product over all rows."""
        T, N, K = a.shape
        out = self.xp.reshape(self.xp.reshape(a, (T * N, K)) @ B, (T, N, B.shape[1]))
        return out if bias is None else out + bias

    def scan(
        self, step: Step, carry: Any, xs: tuple[Any, ...], *, reverse: bool = False
    ) -> tuple[Any, tuple[Any, ...]]:
        """Loop over time: `carry, out = step(carry, (a[t] for a in xs))` for each t, the outputs in input order.

        Any entry of `xs` and of what `step` puts out may be None. `carry` is whatever `step` makes of it.
        """
        given = [a for a in xs if a is not None]
        if given[0].shape[0] == 0:
            return carry, self._no_steps(step, carry, xs)
        columns = iter([self.unstacked(a) for a in given])
        nothing = [None] * given[0].shape[0]
        rows = list(zip(*(nothing if a is None else next(columns) for a in xs), strict=True))
        outs = []
        for row in reversed(rows) if reverse else rows:
            carry, out = step(carry, row)
            outs.append(out)
        if reverse:
            outs.reverse()
        return carry, tuple(None if column[0] is None else self.xp.stack(column) for column in zip(*outs, strict=True))

    def unstacked(self, array: Any) -> Sequence[Any]:
        """Return the arrays along the first axis."""
        return tuple(self.xp.unstack(array))

    @final
    def _no_steps(self, step: Step, carry: Any, xs: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a scan over nothing puts out: (0, ...) each, found by one step over zeros."""
        _, out = step(carry, tuple(None if a is None else self.zeros(a.shape[1:], a) for a in xs))
        return tuple(None if a is None else self.zeros((0, *a.shape), a) for a in out)

    def computing(self, device: Any, *, recorded: bool, precise: bool = False) -> AbstractContextManager[Any]:
        """Return the context to compute in; unless `recorded`, nothing is kept for automatic differentiation.

        Where it is `precise`, products keep all bits of their type: no TF32, no bfloat16 for float32.
        """
        return _NO_CONTEXT

    def constant(self) -> AbstractContextManager[Any]:
        """Return the context to compute what is kept from call to call in: it has values while the library traces."""
        return _NO_CONTEXT

    # ---- calls and their differentiation ----------------------------------------------------------------------------

    def key(self, arrays: Sequence[Any], more: Hashable = None) -> Hashable | None:
        """Return all that a call's plan depends on besides its options, if that is little; else None.

        The plan of a call (its sizes, place and kernel) is memoised under it. `arrays` are those of the call in a fixed
        order, None for one that is not given; `more` has to be part of the key. None, the default, means that each call
        is examined anew.
        """
        return None

    def recorded(self, arrays: Sequence[Any]) -> Recorded:
        """Return how the library's automatic differentiation watches any of these arrays just now."""
        return "no"

    def asks_gradient(self, arrays: Sequence[Any]) -> bool:
        """Return whether a gradient of any of these arrays is asked for, where the library says so before the call."""
        return self.recorded(arrays) != "no"

    def straight_through(self, function: Callable[[Any], Any], array: Any) -> Any:
        """Return `function(array)`, whose gradient goes to the array as it is, as if the function returned it."""
        return function(array)

    def stack(self, kernel: Any = None, call: interfaces.Call | None = None, recorded: Recorded = "no") -> Any:
        """Return the stack over a kernel, None for the plain path; the same object for the same arguments.

        `recorded` is "call" or "traced" for a stack whose `inference` the library has to differentiate as a whole;
        `call` is what it is for, where that is known.
        """
        return stack_over(self, kernel)

    def integer_stack(self, gates: Any) -> Any:
        """Return the stack for weights that are `integers.IntegerMatrix`, over gates that are plain (None) or fused."""
        return Stack(self.xp, Layer(self, self.gates_type(self.xp) if gates is None else gates))

    def kernels(self) -> tuple[Any, ...] | None:
        """Return the kernels that may serve these arrays, the most fused first; None for those that are installed."""
        return None

    def whole_call(self, function: str, arguments: Any, **options: Any) -> Any:
        """Return the results of a public function, of which this library computes everything, checks included.

        Called where `takes_whole_calls`. `function` is "gru", "inference" or "forward", with `plan.Arguments` and the
        options `spec`, `backend` and `save`; or "backward", with (tape, dy, dh_n).
        """
        raise NotImplementedError

    # ---- measuring --------------------------------------------------------------------------------------------------

    def wait(self, array: Any) -> None:
        """Return when the array has been computed, where the library computes asynchronously."""

    def modes(self) -> dict[str, str]:
        """Return the library's settings that numbers depend on, and its driver, for reports."""
        return {}


@cache
def stack_over(backend: Backend, kernel: Any) -> Any:
    """The stack with the kernel at its level; plain at the others."""
    level = None if kernel is None else kernel.level
    if level == "stack":
        return kernel
    gates = kernel if level == "gates" else backend.gates_type(backend.xp)
    return Stack(backend.xp, kernel if level == "layer" else backend.layer_type(backend, gates))
