"""PyTorch: the backend for its CPU, CUDA and MPS devices, and the modules `GRU` and `GRUCell`.

Kernels: `gates.py`, `cpu.py`. Differentiation: `autograd.py` over `operators.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import array_api_compat.torch as xp
import torch
from torch.autograd import forward_ad

from gru_xp.backend import Backend
from gru_xp.checks import structured
from gru_xp.dispatch import selection
from gru_xp.errors import GRUError, StructureError
from gru_xp.functional import CUDNN
from gru_xp.kernels import kernels_of

from .convert import to_module
from .modules import GRU, GRUCell, is_autocast_on
from .watching import dispatches, forward_mode, traced, transforms

__all__ = ["GRU", "GRUCell", "TorchBackend", "to_module"]


class TorchBackend(Backend):
    """PyTorch tensors on any of its devices."""

    name = "torch"
    xp = xp
    quick = True

    def __init__(self) -> None:
        super().__init__()
        for dtype in {a for a in vars(torch).values() if isinstance(a, torch.dtype)}:
            self.computed_in(dtype)  # remembered from now on, because torch.compile must not see it being remembered

    def owns(self, array: Any) -> bool:
        return isinstance(array, torch.Tensor)

    def canonical(self, array: Any) -> Any:
        if array.layout is not torch.strided:
            raise StructureError(f"expected dense tensors, got one with the layout {array.layout}; use its to_dense()")
        return array

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
        if torch.compiler.is_compiling() or type(array).__name__ in ("FakeTensor", "FunctionalTensor"):
            return "is traced by torch.compile or torch.export"
        return None if array.layout == torch.strided else f"has the layout {array.layout}"

    def requires_grad(self, array: Any) -> bool:
        if forward_mode() and forward_ad.unpack_dual(array).tangent is not None:  # type: ignore[no-untyped-call]
            return True
        return bool(torch.is_grad_enabled() and array.requires_grad)

    def exportable(self, array: Any, *, to_host: bool) -> Any:
        array = array.detach().resolve_conj().resolve_neg().contiguous()
        return array.cpu() if to_host else array

    def from_dlpack(self, array: Any, device: Any) -> Any:
        return torch.utils.dlpack.from_dlpack(array).to(device)

    def from_host(self, values: Any, dtype: Any, device: Any) -> Any:
        if device.type != "cuda" or torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
            return torch.tensor(values, dtype=dtype, device=device)
        # from pageable memory the copy would wait for all that the stream has still to do
        return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)

    def owned(self, array: Any) -> Any:
        with torch.inference_mode(False):  # what is kept has to serve calls outside of that mode too
            return array.detach().clone(memory_format=torch.contiguous_format)

    def handed_out(self, array: Any) -> Any:
        return array.clone()

    def computing(self, device: Any, *, recorded: bool) -> AbstractContextManager[Any]:
        if is_autocast_on(device.type):  # everything is computed in the types that came
            return _without_autocast(device.type, recorded)
        return nullcontext() if recorded else torch.no_grad()

    def at_once(self, function: str, x: Any, params: Any, h0: Any, spec: Any) -> tuple[Any, Any] | None:
        kernels = self.kernels()
        kernels = kernels_of(self.name) if kernels is None else kernels
        if not kernels or kernels[0].name != "cpu" or type(params) is not tuple:
            return None
        if getattr(spec, "text", None) != CUDNN.text or x.dim() != 3:
            return None
        try:
            if structured(params) is not params:
                return None
            return _small_calls()(x, h0, params, differentiable=function == "gru")
        except GRUError:  # those who look at the whole call know better what to call its arguments
            return None

    def wait(self, array: Any) -> None:
        if array.device.type == "cuda":
            torch.cuda.synchronize(array.device)
        elif array.device.type == "mps":
            torch.mps.synchronize()

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

    def rows_times(self, a: Any, B: Any) -> Any:
        return a @ B  # one product, with less overhead

    def unstack(self, a: Any) -> tuple[Any, ...]:
        return a.unbind(0)

    def recording(self, arrays: list[Any]) -> bool:
        if forward_mode() or transforms() or traced():
            return True
        return any(self.requires_grad(a) or dispatches(a) for a in arrays)

    def kernels(self) -> tuple[Any, ...] | None:
        return () if torch.compiler.is_compiling() else None  # what it looks into is the plain path

    def differentiable(self, choose: Callable[[], Any]) -> Any:
        if forward_mode():
            return None  # autograd finds every derivative of the plain path by itself
        from .autograd import Differentiable  # registers operators, which only those need who differentiate

        return Differentiable()


@cache
def _small_calls() -> Any:
    """`small.small`; what it imports registers operators, which only those need who compute."""
    from .small import small

    return small


@contextmanager
def _without_autocast(device_type: str, recorded: bool) -> Iterator[None]:
    with torch.autocast(device_type, enabled=False), nullcontext() if recorded else torch.no_grad():
        yield


# torch.compile cannot look into a context variable: what is selected while it compiles stays so
torch.compiler.assume_constant_result(selection)  # type: ignore[no-untyped-call]
