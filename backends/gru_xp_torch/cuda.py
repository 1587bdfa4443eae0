"""The fused CUDA gates for PyTorch's tensors: on each tensor's own device, on PyTorch's current stream there."""

from __future__ import annotations

from typing import Any

import torch

from gru_xp_cuda import CudaGates, Launch

__all__ = ["TorchArrays", "kernel"]

NAMES = {torch.float32: "float32", torch.float64: "float64"}


class TorchArrays:
    """What the kernels need of PyTorch. Memory is PyTorch's, so the order of the stream protects it."""

    place = "cuda"

    def unavailable(self, device: Any) -> str | None:
        if torch.version.hip is not None:
            return "works on NVIDIA's GPUs, and this PyTorch is built for AMD's"
        from gru_xp_cuda.driver import unavailable

        return unavailable(device.index or 0)

    def dtype_name(self, array: Any) -> str:
        return NAMES[array.dtype]

    def compact(self, array: Any) -> Any:
        return (array.resolve_neg() if array.is_neg() else array).contiguous()

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        return torch.empty(shape, dtype=like.dtype, device=like.device)

    def address(self, array: Any) -> int:
        return array.data_ptr()

    def launch(self, launch: Launch, arguments: tuple[int, ...], like: Any) -> None:
        from gru_xp_cuda.driver import device

        device(like.device.index).launch(launch, arguments, torch.cuda.current_stream(like.device).cuda_stream)


kernel = CudaGates(TorchArrays())
