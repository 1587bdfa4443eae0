"""Detects tracers, dispatch modes, transforms of `torch.func` and forward-mode differentiation.

They have to see PyTorch's operators, so code that reads memory has to step aside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

from gru_xp.errors import StructureError

__all__ = ["assert_dense", "dispatches", "forward_mode", "saved_elsewhere", "traced", "transforms"]


def forward_mode() -> bool:
    """Whether a level of forward-mode differentiation is open, that of `torch.func.jvp` or of `forward_ad`."""
    return forward_ad._current_level >= 0


def transforms() -> bool:
    """Whether a transform of `torch.func` is on, so that any tensor may be one of its own kind."""
    return torch._C._are_functorch_transforms_active()


def traced() -> bool:
    """Whether a compiler, a tracer or a dispatch mode is active."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
    )


def dispatches(array: Any) -> bool:
    """Whether it is of a class that handles operators itself and has no memory: FakeTensor, DTensor."""
    return type(array).__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl


def assert_dense(array: Any) -> None:
    """Refuse tensors that are no dense arrays of numbers, each with what to use instead."""
    kind = type(array).__name__
    if kind == "MaskedTensor":
        raise StructureError("expected a tensor, got a MaskedTensor; give x.to_tensor(0), and its mask as mask=")
    if kind == "DTensor":
        raise StructureError("expected a tensor, got a DTensor; use its full_tensor(), or its to_local() on each rank")
    if array.is_nested:
        raise StructureError(
            "expected a dense tensor, got a nested one; use torch.nested.to_padded_tensor(x, 0.0), which is "
            "batch_first, and give lengths="
        )
    if array.layout is not torch.strided:
        raise StructureError(f"expected a dense tensor, got one with the layout {array.layout}; use its to_dense()")


def saved_elsewhere() -> bool:
    """Whether hooks decide where tensors that are saved for backward go, as those of `checkpoint` do."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
