"""CuPy: the backend for arrays in CUDA memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import array_api_compat.cupy as xp
import cupy
import numpy as np

from gru_xp.backend import Backend
from gru_xp.errors import BackendError

__all__ = ["CupyBackend"]

CPU = 1  # DLPack's number of the host's memory


class CupyBackend(Backend):
    """CuPy arrays on any CUDA device."""

    name = "cupy"
    xp = xp

    def owns(self, array: Any) -> bool:
        return isinstance(array, cupy.ndarray)

    def devices(self) -> tuple[str, ...]:
        try:
            count, current = cupy.cuda.runtime.getDeviceCount(), cupy.cuda.Device().id
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise BackendError(f"cupy is installed, but finds no device: {error}") from None
        others = (index for index in range(count) if index != current)
        return tuple(f"cuda:{index}" for index in (current, *others))

    def device_name(self, device: Any) -> str:
        return f"cuda:{device.id}"

    def device(self, name: str | None) -> Any:
        return super().device(None if name == "cuda" else name)

    def _device(self, name: str) -> Any:
        return cupy.cuda.Device(int(name.removeprefix("cuda:")))

    def to_device(self, array: Any, device: Any) -> Any:
        if array.device == device:
            return array
        with device:
            return cupy.array(array)

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        with array.device:
            return cupy.asnumpy(array, order="C") if to_host else cupy.ascontiguousarray(array)

    def from_dlpack(self, array: Any, device: Any) -> Any:
        with device:
            on_host = array.__dlpack_device__()[0] == CPU
            return cupy.array(np.from_dlpack(array)) if on_host else self.to_device(cupy.from_dlpack(array), device)

    def from_host(self, values: Any, dtype: Any, device: Any) -> Any:
        with device:
            return cupy.asarray(values, dtype=dtype)

    def owned(self, array: Any) -> Any:
        return cupy.array(array, order="C")

    def handed_out(self, array: Any) -> Any:
        return array.copy()

    def computing(self, device: Any, *, recorded: bool) -> AbstractContextManager[Any]:
        return device
