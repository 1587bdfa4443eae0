"""NumPy: the backend. Its plain path is in `plain.py`, the fused gates are in `gates.py`."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from gru_xp.backend import Backend, Step
from gru_xp.errors import StructureError

from .plain import NumpyLayer, PlainGates

__all__ = ["NumpyBackend", "register"]

_kinds: tuple[type, ...] = (np.ndarray, np.memmap)


def register(kind: type) -> type:
    """Take arrays of a subclass of `numpy.ndarray` as their numbers: what else they carry does not reach the results.

    Others are refused, because nobody can know whether what they carry matters. May be used as a decorator.

    Raises:
        StructureError: it is no subclass of `numpy.ndarray`, or one with a mask or another `*`.

    >>> import numpy as np, gru_xp, gru_xp_numpy
    >>> @gru_xp_numpy.register
    ... class Recording(np.ndarray):
    ...     "With a name, which does not change what its numbers mean."
    >>> y, h_n = gru_xp.GRU(3, 4)(np.zeros((7, 2, 3), np.float32).view(Recording))
    >>> type(y)
    <class 'numpy.ndarray'>
    """
    global _kinds
    if not (isinstance(kind, type) and issubclass(kind, np.ndarray)) or issubclass(kind, np.ma.MaskedArray | np.matrix):
        raise StructureError(f"kind: expected a subclass of numpy.ndarray, without a mask, got {kind!r}")
    _kinds = (*_kinds, kind)
    return kind


class NumpyBackend(Backend):
    """NumPy arrays in host memory."""

    name = "numpy"
    xp = np  # which follows the standard from NumPy 2.1 on
    gates_type = PlainGates
    layer_type = NumpyLayer
    not_in_dlpack = ("bfloat16",)

    def owns(self, array: Any) -> bool:
        # what another subclass carries (a mask, a unit), or means by `*`, nobody here can know
        return type(array) in _kinds

    def canonical(self, array: Any) -> Any:
        if type(array) is np.ndarray and array.dtype.isnative:
            return array
        return np.asarray(array, dtype=array.dtype.newbyteorder("="))

    def holds(self, name: str) -> bool:
        """Arrays can have the bfloat16 of ml_dtypes, as those that JAX gives have; NumPy's products cannot."""
        return super().holds(name) or (name == "bfloat16" and "ml_dtypes" in sys.modules)

    def cast(self, array: Any, name: str) -> Any:
        return array.astype(name)  # ml_dtypes has told NumPy the name of its bfloat16

    def devices(self) -> Mapping[str, Any]:
        return _DEVICES

    def device_of(self, array: Any) -> Any:
        return "cpu"

    def device_beside(self, array: Any) -> Any:
        return "cpu"

    def beside(self, first: Any, second: Any) -> bool:
        return True

    def to_device(self, array: Any, device: Any) -> Any:
        return array

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        # Seen with NumPy 2.4 and PyTorch 2.13: torch.from_dlpack aborts the process on a negative stride, and gives a
        # tensor that writes to a read-only array.
        array = self.canonical(array)
        flags = array.flags
        plain = flags.c_contiguous and flags.writeable and flags.aligned and min(array.strides, default=0) >= 0
        return array if plain else array.copy(order="C")

    def from_dlpack(self, array: Any, device: Any) -> Any:
        if not hasattr(array, "__dlpack__"):
            return np.array(array)
        try:
            imported = np.from_dlpack(array)
        except BufferError:  # not in host memory, or so the library says; it may copy
            imported = np.from_dlpack(array, device="cpu", copy=None)
        return imported if imported.flags.writeable else imported.copy()

    def owned(self, array: Any) -> Any:
        own = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        own.flags.writeable = False
        return own

    def handed_out(self, array: Any) -> Any:
        view = array.view()
        view.flags.writeable = False
        return view

    def key(self, arrays: Sequence[Any], more: Hashable = None) -> Hashable | None:
        """Shapes, one type and one dtype decide everything: there is one device, and nothing watches a call."""
        kind, dtype = type(arrays[0]), arrays[0].dtype
        found: list[Any] = [more, kind, dtype]
        for a in arrays:
            if type(a) is kind and (a.dtype is dtype or a.dtype == dtype):
                found.append(a.shape)
            elif a is None:
                found.append(None)
            else:
                return None
        return tuple(found)

    def product(self, a: Any, B: Any, bias: Any = None) -> Any:
        out = super().product(a, B)
        return out if bias is None else np.add(out, bias, out=out)

    def scan(
        self, step: Step, carry: Any, xs: tuple[Any, ...], *, reverse: bool = False
    ) -> tuple[Any, tuple[Any, ...]]:
        """As `Backend.scan`, into arrays made once."""
        T = next(a.shape[0] for a in xs if a is not None)
        if T == 0:
            return carry, self._no_steps(step, carry, xs)
        rows = zip(*(repeat(None) if a is None else a[::-1] if reverse else a for a in xs), strict=False)
        order = range(T - 1, -1, -1) if reverse else range(T)
        outs: tuple[Any, ...] | None = None
        for t, row in zip(order, rows, strict=False):
            carry, out = step(carry, row)
            if outs is None:
                outs = tuple(None if a is None else np.empty((T, *a.shape), a.dtype) for a in out)
                kept = [(index, a) for index, a in enumerate(outs) if a is not None]
            for index, a in kept:
                a[t] = out[index]
        assert outs is not None
        return carry, outs


_DEVICES = {"cpu": "cpu"}  # without asking NumPy at each call
