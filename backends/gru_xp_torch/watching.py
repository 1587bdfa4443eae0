"""Detects tracers, dispatch modes, transforms of `torch.func` and forward-mode differentiation.

They have to see PyTorch's operators, so code that reads memory has to step aside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import forward_ad

__all__ = ["dispatches", "forward_mode", "saved_elsewhere", "traced", "transforms"]


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


def saved_elsewhere() -> bool:
    """Whether hooks decide where tensors that are saved for backward go, as those of `checkpoint` do."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
