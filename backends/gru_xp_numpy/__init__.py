"""NumPy: the backend. The fused gates are in `gates.py`; what all backends draw at random is drawn in `draw.py`."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from gru_xp.backend import Backend, Step
from gru_xp.checks import Sizes
from gru_xp.errors import StructureError
from gru_xp.params import Params

from . import draw, gates

__all__ = ["NumpyBackend"]


class NumpyBackend(Backend):
    """NumPy arrays in host memory."""

    name = "numpy"
    xp = xp
    settles = quick = True

    def owns(self, array: Any) -> bool:
        # np.matrix has another `*`, and a masked array's mask would be lost
        return isinstance(array, np.ndarray) and not isinstance(array, np.matrix | np.ma.MaskedArray)

    def canonical(self, array: Any) -> Any:
        if type(array) is np.ndarray and array.dtype.isnative:
            return array
        return np.asarray(array, dtype=array.dtype.newbyteorder("="))

    def dtype_name(self, dtype: Any) -> str:
        try:
            return self._dtype_names[dtype]
        except KeyError:
            name = self._dtype_names[dtype] = dtype.name  # without the byte order
            return str(name)

    def devices(self) -> tuple[str, ...]:
        return ("cpu",)  # without asking NumPy at each call

    def device_of(self, array: Any) -> Any:
        return "cpu"

    def _device(self, name: str) -> Any:
        return name

    def beside(self, first: Any, second: Any) -> bool:
        return True

    def zeros(self, shape: tuple[int, ...], like: Any) -> Any:
        return np.zeros(shape, like.dtype)  # a quarter of the time of the standard's

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
        imported = np.from_dlpack(array)
        return imported if imported.flags.writeable else imported.copy()

    def host_values(self, array: Any) -> Any:
        return array.tolist()

    def owned(self, array: Any) -> Any:
        own = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
        own.flags.writeable = False
        return own

    def handed_out(self, array: Any) -> Any:
        view = array.view()
        view.flags.writeable = False
        return view

    def draw_params(self, seed: Any, sizes: Sizes, initializer: str) -> Params:
        """Initial parameters in float64, for every backend."""
        if not isinstance(initializer, str) or initializer not in draw.INITIALIZERS:
            raise StructureError(
                f"initializer: expected one of {', '.join(map(repr, draw.INITIALIZERS))}, got {initializer!r}"
            )
        I, H, L, D, bias = sizes
        return draw.params(seed, I, H, L, D, bias=bias, initializer=initializer)

    def draw_kept(self, seed: Any, p: float, shape: tuple[int, ...]) -> Any:
        """What dropout keeps, (L-1, T, N, D*H) booleans, for every backend."""
        return draw.kept(seed, p, shape)

    def numbers(self, dtype: Any) -> tuple[Any, Any]:
        return gates.numbers(dtype)

    def plus(self, a: Any, b: Any) -> Any:
        return np.add(a, b, out=a)

    def right_operand(self, W: Any, T: int, N: int) -> Any:
        # Seen with OpenBLAS 0.3.30: for 2 to 64 rows a product with a transposed right operand takes 1.2 to 4 times as
        # long; transposing it once costs as much as 5 to 50 such products save.
        return np.asfortranarray(W) if N > 1 and T >= 32 else W

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
