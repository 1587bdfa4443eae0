"""PyTorch: the backend for its CPU, CUDA and MPS devices, and the fused gates for the CPU in `gates.py`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import array_api_compat.torch as xp
import torch

from gru_xp.backend import Backend

__all__ = ["TorchBackend"]


class TorchBackend(Backend):
    """PyTorch tensors on any of its devices."""

    name = "torch"
    xp = xp

    def owns(self, array: Any) -> bool:
        return isinstance(array, torch.Tensor)

    def devices(self) -> tuple[str, ...]:
        found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        if torch.backends.mps.is_available():
            found.append("mps:0")
        default = self.device_name(torch.get_default_device())
        return (default, *(name for name in found if name != default))

    def device_name(self, device: Any) -> str:
        return "cpu" if device.type == "cpu" else f"{device.type}:{device.index or 0}"

    def device(self, name: str | None) -> Any:
        if name == "cuda" and torch.cuda.is_available():
            name = f"cuda:{torch.cuda.current_device()}"
        return super().device("mps:0" if name == "mps" else name)

    def _device(self, name: str) -> Any:
        return torch.device(name)

    def to_device(self, array: Any, device: Any) -> Any:
        return array.to(device)

    def refuses_crossing(self, array: Any) -> str | None:
        if torch._C._functorch.is_functorch_wrapped_tensor(array):
            return "is inside a transform of torch.func"
        if type(array).__name__ in ("FakeTensor", "FunctionalTensor"):
            return "is traced by torch.compile or torch.export"
        return None if array.layout == torch.strided else f"has the layout {array.layout}"

    def requires_grad(self, array: Any) -> bool:
        return bool(torch.is_grad_enabled() and array.requires_grad)

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        array = array.detach().resolve_conj().resolve_neg().contiguous()
        return array.cpu() if to_host else array

    def from_dlpack(self, array: Any, device: Any) -> Any:
        return torch.utils.dlpack.from_dlpack(array).to(device)

    def from_host(self, values: Any, dtype: Any, device: Any) -> Any:
        return torch.tensor(values, dtype=dtype, device=device)

    def owned(self, array: Any) -> Any:
        return array.detach().clone(memory_format=torch.contiguous_format)

    def handed_out(self, array: Any) -> Any:
        return array.clone()

    def computing(self, device: Any, *, recorded: bool) -> AbstractContextManager[Any]:
        return nullcontext() if recorded else torch.no_grad()

    def modes(self) -> dict[str, str]:
        found = {
            "threads": str(torch.get_num_threads()),
            "float32 matmul precision": torch.get_float32_matmul_precision(),
        }
        if torch.cuda.is_available():
            found["CUDA"] = str(torch.version.cuda)
            found["cuDNN"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        return found

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    def recording(self, arrays: list[Any]) -> bool:
        wrapped = torch._C._functorch.is_functorch_wrapped_tensor
        watched = any(self.requires_grad(a) or wrapped(a) for a in arrays)
        return watched or torch.compiler.is_compiling()
