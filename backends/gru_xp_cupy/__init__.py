"""CuPy: the backend for arrays in CUDA memory. The fused gates are in `gates.py`.

CuPy computes on the current device and its current stream; `computing` makes the arrays' device the current one, and
what is asked for outside of that does so itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import array_api_compat.cupy as xp
import cupy
import numpy as np

from gru_xp.backend import Backend
from gru_xp.errors import BackendError

__all__ = ["CupyBackend"]

HOST = (1, 3)  # DLPack's numbers of the host's memory and of such that CUDA has pinned


class Exported:
    """An array on its way out: its stream, for which the other library's has to wait, is that of its own device.

    CuPy takes the stream of the current device, whichever that is.
    """

    def __init__(self, array: Any):
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        with self.array.device:
            return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class CupyBackend(Backend):
    """CuPy arrays on any CUDA device."""

    name = "cupy"
    xp = xp

    def owns(self, array: Any) -> bool:
        return isinstance(array, cupy.ndarray)

    def devices(self) -> Mapping[str, Any]:
        try:
            count, current = cupy.cuda.runtime.getDeviceCount(), cupy.cuda.Device().id
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise BackendError(f"cupy is installed, but finds no device: {error}") from None
        return {f"cuda:{index}": cupy.cuda.Device(index) for index in (current, *range(count))}

    def device_name(self, device: Any) -> str:
        return f"cuda:{device.id}"

    def to_device(self, array: Any, device: Any) -> Any:
        if array.device == device:
            return array
        with array.device:
            here = cupy.cuda.get_current_stream()
            array = cupy.ascontiguousarray(array)
            ready = here.record()
        with device:
            there = cupy.cuda.get_current_stream()
            there.wait_event(ready)  # CuPy copies on this stream, and orders nothing between devices
            moved = cupy.array(array)
            copied = there.record()
        with array.device:
            here.wait_event(copied)  # before the memory of a compact copy is used again
        return moved

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        with array.device:
            return cupy.asnumpy(array, order="C") if to_host else Exported(cupy.ascontiguousarray(array))

    def from_dlpack(self, array: Any, device: Any) -> Any:
        with device:
            if array.__dlpack_device__()[0] in HOST:
                # waits: what is pinned CuPy copies when the stream comes to it, and its owner may have written there
                return cupy.array(np.from_dlpack(array), blocking=True)
            return self.to_device(cupy.from_dlpack(array), device)  # waits, on the device, for the other's stream

    def from_host(self, values: Any, dtype: Any, device: Any) -> Any:
        with device:
            return cupy.asarray(values, dtype=dtype)

    def owned(self, array: Any) -> Any:
        with array.device:  # a copy lies on the current device, wherever the array lies
            return cupy.array(array, order="C")

    def handed_out(self, array: Any) -> Any:
        with array.device:
            return array.copy()

    def computing(self, device: Any, *, recorded: bool, precise: bool = False) -> AbstractContextManager[Any]:
        return device

    def wait(self, array: Any) -> None:
        array.device.synchronize()

    def modes(self) -> dict[str, str]:
        return {"CUDA": str(cupy.cuda.runtime.runtimeGetVersion()), "driver": str(cupy.cuda.runtime.driverGetVersion())}
