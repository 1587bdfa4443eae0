"""Small differentiable calls on the CPU, where PyTorch's own bookkeeping would take longer than the kernel.

The tape stays what the kernel left, NumPy's arrays. So PyTorch does not see that it is saved, and it is freed with the
graph, not already by `backward`. It has at most `MOST_SAVED` numbers, and where saved tensors are moved or dropped
(`checkpoint`, say) calls are not small.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gru_xp.interfaces import Call, Options
from gru_xp.params import GRUSpec, Params

from .autograd import gradients, transformed
from .cpu import kernel
from .flat import Sizes, flat_params, flat_tape, params_of, tapes_of
from .memory import seen, shown, unmoved
from .watching import saved_elsewhere

__all__ = ["SmallCalls", "is_small"]

#: multiply-adds: some hundred microseconds, beyond which the bookkeeping does not count
MOST = 20_000_000
#: numbers on the tape: two megabytes in float64
MOST_SAVED = 1 << 18
CUDNN = GRUSpec()
OPTIONS = Options(CUDNN, save="all")


def is_small(call: Call) -> bool:
    """Whether a call is small, and has nothing unusual about it."""
    T, N, I, H, cells = call.T, call.N, call.I, call.H, call.L * call.D
    return (
        T * N > 0
        and T * N * 3 * H * (I + H) * cells <= MOST
        and T * N * (I + 6 * H * cells) <= MOST_SAVED
        and call.spec.text == CUDNN.text
        and not (call.lengths or call.resets or call.dropout or saved_elsewhere())
    )


class SmallCalls:
    """A stack, inference alone, that autograd differentiates."""

    name = "autograd of small calls"

    def inference(
        self, x: Tensor, h0: Tensor, params: Params, options: Options, dropout_masks: None, /
    ) -> tuple[Tensor, Tensor]:
        """x (T, N, I), h0 (L*D, N, H) -> y (T, N, D*H), h_n (L*D, N, H)."""
        sizes = Sizes(len(params[0]), params[0][0].b_ih is not None, CUDNN.text)
        return Small.apply(sizes, x, h0, *flat_params(params))  # type: ignore[no-untyped-call]


class Small(Function):
    """y and h_n."""

    @staticmethod
    def forward(ctx: Any, sizes: Sizes, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        x, h0, *weights = ctx.seen = tuple(map(seen, arrays))
        y, h_n, ctx.tapes = kernel.host.forward(x, h0, params_of(weights, sizes), OPTIONS, None)
        ctx.sizes = sizes
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*arrays)
        return shown(y), shown(h_n)

    @staticmethod
    def backward(ctx: Any, dy: Any, dh_n: Any) -> tuple[Any, ...]:
        arrays = ctx.saved_tensors
        if torch.is_grad_enabled() or transformed(dy, dh_n):
            x, h0, *weights = arrays
            tape = [shown(a) for a in flat_tape(ctx.tapes)]
            return None, *gradients(ctx.sizes, (x, h0, None, None, None, *weights), tape, dy, dh_n)
        tapes = ctx.tapes
        if not all(map(unmoved, ctx.seen, arrays)):  # FSDP frees weights and puts them elsewhere
            x, _, *weights = map(seen, arrays)
            tapes = tapes_of(x, flat_tape(tapes), weights, None, None, ctx.sizes)
        grads = kernel.host.backward(tapes, seen(dy), seen(dh_n), None)
        return None, *map(shown, (grads.x, grads.h0, *flat_params(grads.params)))
