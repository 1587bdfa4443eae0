"""Small calls on the CPU: little stands between PyTorch and the kernel, which is soon done.

Where a call is recorded, the tape stays what the kernel left, NumPy's arrays. So PyTorch does not see that it is saved,
and it goes with the graph, not already with `backward`. It has no more than `MOST_SAVED` numbers, and whoever moves or
drops what is saved (`checkpoint`, say) gets the long way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import Parameter

from gru_xp.checks import sizes_of
from gru_xp.dispatch import kernel_policy, load, selection, variables
from gru_xp.functional import CUDNN
from gru_xp.kernels import stack_for
from gru_xp.params import Params, map_params, weights_of
from gru_xp_cpu import CpuLayer
from gru_xp_cpu.calling.layer import unusable

from .autograd import gradients, transformed
from .cpu import owner
from .flat import Sizes, flat_params, flat_tape, params_of
from .watching import forward_mode, traced, transforms

__all__ = ["small"]

#: multiply-adds: some hundred microseconds, behind which what stands between does not count
MOST = 20_000_000
#: numbers on the tape: two megabytes in float64
MOST_SAVED = 1 << 18
PLAIN: Any = {"valid": None, "resets": None, "dropout_masks": None}
UNSET = (None, None, None)


def small(x: Tensor, h0: Tensor | None, params: Params, *, differentiable: bool = True) -> tuple[Tensor, Tensor] | None:
    """What `gru` returns, or `gru_inference` if not `differentiable`; None unless the call is small and usual."""
    if type(x) not in (Tensor, Parameter):
        return None
    sizes = sizes_of(params)
    (T, N, I), H, cells = x.shape, sizes.H, sizes.L * sizes.D
    if T * N * 3 * H * (I + H) * cells > MOST or T * N == 0:
        return None
    weights, dtype = weights_of(params), x.dtype
    recorded = x.requires_grad
    for a in weights if h0 is None else (h0, *weights):
        if type(a) not in (Parameter, Tensor) or a.dtype is not dtype or not a.is_cpu or a.layout is not torch.strided:
            return None
        recorded = recorded or a.requires_grad
    if (
        dtype not in (torch.float32, torch.float64)
        or not x.is_cpu
        or x.layout is not torch.strided
        or forward_mode()
        or transforms()
        or traced()
        or torch.is_autocast_enabled("cpu")
        or (variables() != UNSET and (selection() is not None or kernel_policy() == "off"))
        or unusable() is not None
    ):
        return None
    if I != sizes.I or (h0 is not None and h0.shape != (cells, N, H)):
        return None
    if not differentiable or not recorded or not torch.is_grad_enabled():
        seen = map_params(_in_numpy, params)
        start = np.zeros((cells, N, H), seen[0][0].W_hh.dtype) if h0 is None else _in_numpy(h0)
        y, h_n = _stack().inference(_in_numpy(x), start, seen, spec=CUDNN, **PLAIN)
        return torch.from_numpy(y), torch.from_numpy(h_n)
    if (
        T * N * (I + 6 * H * cells) > MOST_SAVED
        or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    ):
        return None
    if h0 is None:
        h0 = x.new_zeros(cells, N, H)
    return Small.apply(Sizes(sizes.D, sizes.bias, CUDNN.text), x, h0, *weights)  # type: ignore[no-untyped-call]


def _in_numpy(a: Tensor) -> Any:
    return a.numpy(force=True)


class Small(Function):
    """y and h_n."""

    @staticmethod
    def forward(ctx: Any, sizes: Sizes, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        x, h0, *weights = (a.numpy(force=True) for a in arrays)
        y, h_n, tapes = _stack().forward(x, h0, params_of(weights, sizes), spec=CUDNN, save="all", **PLAIN)
        ctx.sizes, ctx.tapes = sizes, tapes
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*arrays)
        return torch.from_numpy(y), torch.from_numpy(h_n)

    @staticmethod
    def backward(ctx: Any, dy: Any, dh_n: Any) -> tuple[Any, ...]:
        x, h0, *weights = ctx.saved_tensors  # even where they are not used: that they are unchanged is found out here
        if torch.is_grad_enabled() or transformed(dy, dh_n):
            tape = [torch.from_numpy(a) for a in flat_tape(ctx.tapes)]
            return None, *gradients(ctx.sizes, (x, h0, None, None, None, *weights), tape, dy, dh_n)
        given = (None if a is None else a.numpy(force=True) for a in (dy, dh_n))
        grads = _stack().backward(ctx.tapes, *given, dropout_masks=None)
        return None, *map(torch.from_numpy, (grads.x, grads.h0, *flat_params(grads.params)))


def _stack() -> Any:
    return stack_for(load("numpy"), _layer)


#: the kernels for NumPy's arrays, on the threads that PyTorch computes with
_layer = CpuLayer(owner)
