"""The fused CUDA gates for CuPy's arrays: on the arrays' device, on CuPy's current stream."""

from __future__ import annotations

from typing import Any

import cupy

from gru_xp_cuda import CudaGates, Launch

__all__ = ["CupyArrays", "kernel"]


class CupyArrays:
    """What the kernels need of CuPy. New arrays lie on the current device: `CupyBackend.computing` sees to that.

    CuPy's own way of compiling, `RawModule`, flushes subnormal numbers to zero; so the kernels are compiled without it.
    """

    place = "cuda"

    def unavailable(self, device: Any) -> str | None:
        if cupy.cuda.runtime.is_hip:
            return "works on NVIDIA's GPUs, and this CuPy is built for AMD's"
        from gru_xp_cuda.driver import unavailable

        return unavailable(device.id)

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def compact(self, array: Any) -> Any:
        return cupy.ascontiguousarray(array)

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        return cupy.empty(shape, like.dtype)

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def launch(self, launch: Launch, arguments: tuple[int, ...], like: Any) -> None:
        from gru_xp_cuda.driver import device

        index = like.data.device_id
        device(index).launch(launch, arguments, cupy.cuda.get_current_stream(index).ptr)


kernel = CudaGates(CupyArrays())
