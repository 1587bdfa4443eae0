"""PyTorch: the backend for its CPU, CUDA and MPS devices, and the modules `GRU` and `GRUCell`.

Kernels: `gates.py`, `cpu.py`. Differentiation: `autograd.py` over `operators.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import array_api_compat.torch as xp
import torch
from torch.autograd import forward_ad

from gru_xp.backend import Backend, Purpose, Recorded
from gru_xp.interfaces import Call
from gru_xp.selection import selection

from . import cpu
from .convert import to_module
from .modules import GRU, GRUCell, is_autocast_on
from .straight_through import StraightThrough
from .watching import assert_dense, dispatches, forward_mode, saved_elsewhere, traced, transforms

__all__ = ["GRU", "GRUCell", "TorchBackend", "to_module"]


PLAIN_TENSORS = (torch.Tensor, torch.nn.Parameter)


class TorchBackend(Backend):
    """PyTorch tensors on any of its devices."""

    name = "torch"
    xp = xp

    def __init__(self) -> None:
        super().__init__()
        for dtype in {a for a in vars(torch).values() if isinstance(a, torch.dtype)}:
            self.computed_in(dtype)  # remembered from now on, because torch.compile must not see it being remembered

    def owns(self, array: Any) -> bool:
        return isinstance(array, torch.Tensor)

    def canonical(self, array: Any) -> Any:
        if type(array) not in PLAIN_TENSORS or array.layout is not torch.strided or array.is_nested:
            assert_dense(array)
        return array

    def devices(self) -> Mapping[str, Any]:
        default = torch.get_default_device()
        found = [default, torch.device("cpu")]
        if torch.cuda.is_available():
            count, current = torch.cuda.device_count(), torch.cuda.current_device()
            found += [torch.device("cuda", index) for index in (current, *range(count))]
        if torch.backends.mps.is_available():
            found.append(torch.device("mps", 0))
        return {self.device_name(device): device for device in found}

    def device_name(self, device: Any) -> str:
        return "cpu" if device.type == "cpu" else f"{device.type}:{device.index or 0}"

    def to_device(self, array: Any, device: Any) -> Any:
        return array.to(device)

    def refuses_crossing(self, array: Any, purpose: Purpose) -> str | None:
        if torch._C._functorch.is_functorch_wrapped_tensor(array):
            return "is inside a transform of torch.func"
        if torch.compiler.is_compiling() or type(array).__name__ in ("FakeTensor", "FunctionalTensor"):
            return "is traced by torch.compile or torch.export"
        if array.layout != torch.strided:
            return f"has the layout {array.layout}"
        if dispatches(array) or torch._is_functional_tensor(array):
            return f"is a {type(array).__name__}, whose numbers are not in memory of its own"
        dual = forward_mode() and forward_ad.unpack_dual(array).tangent is not None  # type: ignore[no-untyped-call]
        recorded = dual or (torch.is_grad_enabled() and array.requires_grad)
        return "requires a gradient" if purpose == "differentiate" and recorded else None

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

    def computing(self, device: Any, *, recorded: bool, precise: bool = False) -> AbstractContextManager[Any]:
        if precise:
            return _precisely(device.type, recorded)
        if is_autocast_on(device.type):  # everything is computed in the types that came
            return _without_autocast(device.type, recorded)
        return nullcontext() if recorded else torch.no_grad()

    def key(self, arrays: Sequence[Any], more: Hashable = None) -> Hashable | None:
        """Shapes, one dtype, one device and whether anything requires a gradient, where tensors are just tensors."""
        if forward_mode() or transforms() or traced() or saved_elsewhere():
            return None
        first = arrays[0]
        dtype, on_cpu = first.dtype, first.is_cpu
        device = None if on_cpu else first.device
        if is_autocast_on(first.device.type if device else "cpu"):
            return None
        grad, recorded = torch.is_grad_enabled(), False
        found: list[Any] = [more, device, dtype]
        try:
            for a in arrays:
                if type(a) in PLAIN_TENSORS and a.dtype is dtype and a.layout is torch.strided and a.is_cpu is on_cpu:
                    recorded = recorded or (grad and a.requires_grad)
                    found.append(a.shape)
                elif a is None:
                    found.append(None)
                else:
                    return None
                if not on_cpu and a is not None and a.device != device:
                    return None
        except RuntimeError:  # a nested tensor has no shape
            return None
        found.append(recorded)
        return tuple(found)

    def unstacked(self, array: Any) -> Sequence[Any]:
        return tuple(array.unbind())  # array_api_compat's unstack has no batching rule

    def recorded(self, arrays: Sequence[Any]) -> Recorded:
        if forward_mode():
            return "operations"  # autograd finds every derivative of the plain path
        if transforms() or traced() or any(map(dispatches, arrays)):
            return "traced"
        return "call" if self.asks_gradient(arrays) else "no"

    def asks_gradient(self, arrays: Sequence[Any]) -> bool:
        return forward_mode() or (torch.is_grad_enabled() and any(a.requires_grad for a in arrays))

    def straight_through(self, function: Callable[[Any], Any], array: Any) -> Any:
        with torch.no_grad():
            values = function(array.detach())
        return StraightThrough.apply(array, values)  # type: ignore[no-untyped-call]

    def stack(self, kernel: Any = None, call: Call | None = None, recorded: Recorded = "no") -> Any:
        if recorded == "no":
            return super().stack(kernel)
        from .autograd import Differentiable  # registers operators, which are needed for differentiation alone
        from .small import SmallCalls, is_small

        small = recorded == "call" and call is not None and kernel is cpu.kernel and is_small(call)
        return SmallCalls() if small else Differentiable()

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

    def product(self, a: Any, B: Any, bias: Any = None) -> Any:
        out = a @ B  # one product, with less overhead
        return out if bias is None else out + bias

    def kernels(self) -> tuple[Any, ...] | None:
        return () if torch.compiler.is_compiling() else None  # what it looks into is the plain path


@contextmanager
def _without_autocast(device_type: str, recorded: bool) -> Iterator[None]:
    with torch.autocast(device_type, enabled=False), nullcontext() if recorded else torch.no_grad():
        yield


@contextmanager
def _precisely(device_type: str, recorded: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with _without_autocast(device_type, recorded):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


# torch.compile cannot look into a context variable: what is selected while it compiles stays so. This is all that
# torch.compiler.assume_constant_result does, which imports torch._dynamo first: as long as torch itself takes again
selection._dynamo_marked_constant = True  # type: ignore[attr-defined]
