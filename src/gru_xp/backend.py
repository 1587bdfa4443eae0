"""What an array library has to tell: the class `Backend`. Its defaults serve any library that speaks the standard.

A backend is a subclass with what its library does differently, named in the entry-point group `gru_xp.backends` under
the name of the library's root module. `backends/README.md` shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

from .errors import BackendError

__all__ = ["Backend"]

Step: TypeAlias = "Callable[[Any, tuple[Any, ...]], tuple[Any, tuple[Any, ...]]]"

_ANYWHERE = nullcontext()
HALF = ("float16", "bfloat16")
FLOATS = (*HALF, "float32", "float64")


class Backend:
    """An array library: its namespace, devices, loop over time and the ways in and out by DLPack."""

    #: the root module of the library, which is also what `backend=` and GRU_XP_BACKEND call it
    name: str
    #: a namespace of the array API standard
    xp: Any
    #: whether the types, shapes and dtypes of arrays decide all: there is one device, and nothing ever watches a call
    settles = False
    #: whether small calls have a short way, by `settles` or `at_once`
    quick = False

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
        """Whether this backend computes with such an array; asked once for each type."""
        return type(array).__module__.partition(".")[0] == self.name

    def canonical(self, array: Any) -> Any:
        """The array as the mathematics can take it, most often itself."""
        return array

    def dtype_name(self, dtype: Any) -> str:
        """Its name, "float32" and so on, the same in every library."""
        try:
            return self._dtype_names[dtype]
        except KeyError:
            name = self._dtype_names[dtype] = str(dtype).rpartition(".")[2]
            return name

    def dtype(self, name: str) -> Any:
        """The library's dtype of that name."""
        found = getattr(self.xp, name, None)
        if found is None:
            raise BackendError(f"{self.name} has no dtype {name}; it has {', '.join(self.float_names())}")
        return found

    def float_names(self) -> tuple[str, ...]:
        """The floating-point dtypes that the mathematics can use here."""
        return self._float_names

    def computed_in(self, dtype: Any) -> Any:
        """The dtype of products, gates and sums for arrays of `dtype`: float32 for those of 16 bits, else itself."""
        try:
            return self._computed_in[dtype]
        except KeyError:
            wide = self.xp.float32 if self.dtype_name(dtype) in HALF else dtype
            self._computed_in[dtype] = wide
            return wide

    # ---- devices ----------------------------------------------------------------------------------------------------

    def devices(self) -> tuple[str, ...]:
        """The names of the devices that are there, the default first."""
        return tuple(self._by_name())

    def device_of(self, array: Any) -> Any:
        """The library's own device object of an array."""
        return array.device

    def beside(self, first: Any, second: Any) -> bool:
        """Whether two arrays lie where the library can compute with both."""
        return bool(self.device_of(first) == self.device_of(second))

    def device_beside(self, array: Any) -> Any:
        """What to give as `device=` to a function that creates an array to compute with beside this one."""
        return self.device_of(array)

    def zeros(self, shape: tuple[int, ...], like: Any) -> Any:
        """Zeros to compute with beside an array of the same dtype."""
        return self.xp.zeros(shape, dtype=like.dtype, device=self.device_beside(like))

    def device_name(self, device: Any) -> str:
        """A device as users write it, the same in every library: "cpu", "cuda:0", "mps:0"."""
        return str(device)

    def device(self, name: str | None) -> Any:
        """The library's own device object for one of `devices()`; its default for None."""
        if name is None or name in self.devices():
            return self._device(self.devices()[0] if name is None else name)
        raise BackendError(f"{self.name} has no device {name!r} here; it has {', '.join(self.devices())}")

    def _device(self, name: str) -> Any:
        return self._by_name().get(name, name)

    def _by_name(self) -> dict[str, Any]:
        """The device objects that the namespace tells of, by their names, the default first; "cpu" if it tells none."""
        info = getattr(self.xp, "__array_namespace_info__", None)
        told = () if info is None else (info().default_device(), *info().devices())
        return {self.device_name(device): device for device in told if device is not None} or {"cpu": "cpu"}

    # ---- in and out -------------------------------------------------------------------------------------------------

    def refuses_crossing(self, array: Any) -> str | None:
        """Why the values of this array cannot leave the library (it is traced, say), or None."""
        return None

    def requires_grad(self, array: Any) -> bool:
        """Whether the library would want to send a gradient through this array."""
        return False

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        """The array, or a copy where it is read-only, not compact, of foreign byte order or not in host memory."""
        return array

    def from_dlpack(self, array: Any, device: Any) -> Any:
        """Take in an array of another library, writable where this library has writable arrays."""
        return self.to_device(self.xp.from_dlpack(array), device)

    def to_device(self, array: Any, device: Any) -> Any:
        """The array on another device of the same library."""
        return array if self.device_of(array) == device else array.to_device(device)

    def from_host(self, values: Any, dtype: Any, device: Any) -> Any:
        """An array from nested lists of Python numbers."""
        return self.xp.asarray(values, dtype=dtype, device=device)

    def host_values(self, array: Any) -> Any:
        """The values as nested lists where they lie in host memory and reading them costs nothing, else None."""
        return None

    def owned(self, array: Any) -> Any:
        """A compact copy that nobody else can write to as long as it is handed out by `handed_out`."""
        return self.xp.asarray(array, copy=True)

    def handed_out(self, array: Any) -> Any:
        """What may be given away of an array that is `owned`: read-only, or a copy where there is no such thing."""
        return self.xp.asarray(array, copy=True)

    # ---- drawing at random ------------------------------------------------------------------------------------------

    def draw_params(self, seed: Any, sizes: Any, initializer: str) -> Any:
        """Initial parameters for every backend; NumPy's alone draws, so that one seed gives one model everywhere."""
        raise NotImplementedError

    def draw_kept(self, seed: Any, p: float, shape: tuple[int, ...]) -> Any:
        """What dropout keeps, (L-1, T, N, D*H) booleans, for every backend; NumPy's alone draws."""
        raise NotImplementedError

    # ---- computing --------------------------------------------------------------------------------------------------

    def numbers(self, dtype: Any) -> tuple[Any, Any]:
        """0.5 and 1 to compute with beside arrays of this dtype."""
        return 0.5, 1.0

    def plus(self, a: Any, b: Any) -> Any:
        """a + b, where a is a large array that nobody else has: it may be written to."""
        return a + b

    def rows_times(self, a: Any, B: Any) -> Any:
        """a (T, N, K) @ B (K, M) -> (T, N, M) as one product over all rows."""
        T, N, K = a.shape
        return self.xp.reshape(self.xp.reshape(a, (T * N, K)) @ B, (T, N, B.shape[1]))

    def sum_of_rows(self, a: Any) -> Any:
        """a (T, N, M) -> (M,)."""
        return self.xp.sum(a, axis=(0, 1))

    def right_operand(self, W: Any, T: int, N: int) -> Any:
        """W (M, K) in the layout in which T products `a @ W.T` with a (N, K) are fastest."""
        return W

    def unstack(self, a: Any) -> tuple[Any, ...]:
        """a[t] for each t."""
        return self.xp.unstack(a)

    def scan(
        self, step: Step, carry: Any, xs: tuple[Any, ...], *, reverse: bool = False
    ) -> tuple[Any, tuple[Any, ...]]:
        """The loop over time: `carry, out = step(carry, (a[t] for a in xs))` for each t, the outputs in input order.

        Any entry of `xs` and of what `step` puts out may be None. `carry` is whatever `step` makes of it.
        """
        given = [a for a in xs if a is not None]
        if given[0].shape[0] == 0:
            return carry, self._no_steps(step, carry, xs)
        columns = iter([self.unstack(a) for a in given])
        rows = list(zip(*(_nothing(given[0].shape[0]) if a is None else next(columns) for a in xs), strict=True))
        outs = []
        for row in reversed(rows) if reverse else rows:
            carry, out = step(carry, row)
            outs.append(out)
        if reverse:
            outs.reverse()
        return carry, tuple(None if column[0] is None else self.xp.stack(column) for column in zip(*outs, strict=True))

    def _no_steps(self, step: Step, carry: Any, xs: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a scan over nothing puts out: (0, ...) each, found by one step over zeros."""

        def zeros(a: Any, shape: tuple[int, ...]) -> Any:
            return None if a is None else self.zeros(shape, a)

        _, out = step(carry, tuple(None if a is None else zeros(a, a.shape[1:]) for a in xs))
        return tuple(None if a is None else zeros(a, (0, *a.shape)) for a in out)

    def computing(self, device: Any, *, recorded: bool) -> AbstractContextManager[Any]:
        """The context to compute in; where `recorded` is False, nothing is kept for automatic differentiation."""
        return _ANYWHERE

    def at_once(self, function: str, x: Any, params: Any, h0: Any, spec: Any) -> tuple[Any, Any] | None:
        """What `gru` or `gru_inference` returns, if the library has a short way for a call; nothing is checked yet.

        None for one with anything unusual or wrong about it, which then goes the whole way.
        """
        return None

    def wait(self, array: Any) -> None:
        """Return when the array has been computed, where the library computes behind the caller's back."""

    def full_precision(self) -> AbstractContextManager[Any]:
        """A context in which products keep all bits of their type: no TF32, no bfloat16 for float32."""
        return _ANYWHERE

    def modes(self) -> dict[str, str]:
        """The library's settings that numbers depend on, and its driver, for reports."""
        return {}

    def kernels(self) -> tuple[Any, ...] | None:
        """The fused kernels that may serve these arrays, the most fused first; None for those that are installed."""
        return None

    def compiled(self, stack: Any) -> Any:
        """The same stack, compiled where the library gains by that."""
        return stack

    def recording(self, arrays: list[Any]) -> bool:
        """Whether the library's automatic differentiation is watching any of these arrays just now."""
        return False

    def differentiable(self, choose: Callable[[], Any]) -> Any:
        """A stack whose `inference` the library differentiates in its own way; None to let it follow the plain path.

        `choose()` is the kernel for the call, or None, for a library that has to know it beforehand.
        """
        return None


def _nothing(count: int) -> list[None]:
    return [None] * count
