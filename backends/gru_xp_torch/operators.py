"""The operators `gru_xp::forward` and `gru_xp::backward`: opaque, so that compilers need not look inside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from gru_xp import params
from gru_xp.discovery import load
from gru_xp.errors import RangeError
from gru_xp.interfaces import Call, Options
from gru_xp.kernels import choose
from gru_xp.selection import kernel_policy
from gru_xp.stack import Stack

from .batches import GroupedLayer, fold, one_by_one, unfold
from .fits import assert_backward, assert_forward
from .flat import Sizes, flat_params, flat_tape, params_of, spec_of, tapes_of

__all__ = ["backward", "backward_now", "forward", "forward_now", "plain"]


def forward_now(
    D: int, bias: bool, spec: str, x: Any, h0: Any, valid: Any, resets: Any, masks: Any, weights: Any
) -> list[Any]:
    """y, h_n and the tape as `flat_tape`, by whatever kernel fits."""
    sizes = Sizes(D, bias, spec)
    stack = _fastest("forward", x, weights, valid, resets, masks, sizes)
    return _forward(stack, *sizes, x, h0, valid, resets, masks, weights)


def backward_now(
    D: int,
    bias: bool,
    spec: str,
    x: Any,
    dy: Any,
    dh_n: Any,
    valid: Any,
    resets: Any,
    masks: Any,
    weights: Any,
    tape: Any,
) -> list[Any]:
    """dx, dh0 and the gradients of the weights, by whatever kernel fits; one of dy and dh_n may be None."""
    sizes = Sizes(D, bias, spec)
    stack = _fastest("backward", x, weights, valid, resets, masks, sizes)
    return _backward(stack, *sizes, x, dy, dh_n, valid, resets, masks, weights, tape)


@torch.library.custom_op("gru_xp::forward", mutates_args=())
def forward(
    D: int,
    bias: bool,
    spec: str,
    x: Tensor,
    h0: Tensor,
    valid: Tensor | None,
    resets: Tensor | None,
    masks: Tensor | None,
    weights: Sequence[Tensor],
) -> list[Tensor]:
    """As `forward_now`."""
    assert_forward(D, bias, spec, x, h0, valid, resets, masks, weights)
    return [a.contiguous() for a in forward_now(D, bias, spec, x, h0, valid, resets, masks, weights)]


@torch.library.custom_op("gru_xp::backward", mutates_args=())
def backward(
    D: int,
    bias: bool,
    spec: str,
    x: Tensor,
    dy: Tensor,
    dh_n: Tensor,
    valid: Tensor | None,
    resets: Tensor | None,
    masks: Tensor | None,
    weights: Sequence[Tensor],
    tape: Sequence[Tensor],
) -> list[Tensor]:
    """As `backward_now`."""
    assert_backward(D, bias, spec, x, dy, dh_n, valid, resets, masks, weights, tape)
    found = backward_now(D, bias, spec, x, dy, dh_n, valid, resets, masks, weights, tape)
    return [a.contiguous() for a in found]


def plain(
    D: int, bias: bool, spec: str, x: Any, h0: Any, valid: Any, resets: Any, masks: Any, weights: Any
) -> tuple[Any, Any]:
    """y and h_n by operations that autograd knows."""
    layered = params_of(weights, Sizes(D, bias, spec))
    return load("torch").stack().inference(x, h0, layered, _options(spec, valid, resets), masks)


# ---- shapes ----------------------------------------------------------------------------------------------------------


@forward.register_fake
def _(D, bias, spec, x, h0, valid, resets, masks, weights):  # type: ignore[no-untyped-def]
    T, N, _ = x.shape
    rows, _, H = h0.shape
    wide = load("torch").computed_in(x.dtype)
    tape = []
    for _ in range(rows):
        tape += [x.new_empty(T, N, H), *(x.new_empty(T, N, H, dtype=wide) for _ in range(4))]
    read = [x.new_empty(T, N, D * H) for _ in range(rows // D - 1)]
    return [x.new_empty(T, N, D * H), x.new_empty(rows, N, H), *tape, *read]


@backward.register_fake
def _(D, bias, spec, x, dy, dh_n, valid, resets, masks, weights, tape):  # type: ignore[no-untyped-def]
    return [a.new_empty(a.shape) for a in (x, dh_n, *weights)]


# ---- a batch of problems ---------------------------------------------------------------------------------------------


@forward.register_vmap
def _(info, in_dims, *args):  # type: ignore[no-untyped-def]
    B, (*_, weights_dims) = _some(info.batch_size), in_dims
    if any(dim is not None for dim in weights_dims):
        return one_by_one(forward, B, in_dims, args)
    folded = [a if at is None else fold(a, dim, B, at) for a, dim, at in zip(args, in_dims, FORWARD_ROWS, strict=True)]
    found = [unfold(a, B) for a in forward(*folded)]
    return found, [1] * len(found)


@backward.register_vmap
def _(info, in_dims, *args):  # type: ignore[no-untyped-def]
    B, (*_, weights_dims, tape_dims) = _some(info.batch_size), in_dims
    if any(dim is not None for dim in weights_dims) or not spec_of(args[2]).standard_gates:
        return one_by_one(backward, B, in_dims, args)
    *folded, weights, tape = (
        a if at is None else fold(a, dim, B, at) for a, dim, at in zip(args, in_dims, BACKWARD_ROWS, strict=True)
    )
    tape = [fold(a, dim, B, 1) for a, dim in zip(tape, tape_dims, strict=True)]
    floor: Any = GroupedLayer(B)
    dx, dh0, *dweights = _backward(Stack(load("torch").xp, floor), *[*folded, weights, tape])
    return [unfold(dx, B), unfold(dh0, B), *dweights], [1, 1, *([0] * len(dweights))]


def _some(B: int) -> int:
    if B == 0:
        raise RangeError("vmap: expected at least one problem, got an empty batch of them")
    return B


# where each argument has its batch; D, bias, spec, the weights and the tape have none, or are lists
FORWARD_ROWS = (None, None, None, 1, 1, 1, 1, 2, None)  # x, h0, valid, resets, masks
BACKWARD_ROWS = (None, None, None, 1, 1, 1, 1, 1, 2, None, None)  # x, dy, dh_n, valid, resets, masks


# ---- over a stack ----------------------------------------------------------------------------------------------------


def _forward(
    stack: Any,
    D: int,
    bias: bool,
    spec: str,
    x: Any,
    h0: Any,
    valid: Any,
    resets: Any,
    masks: Any,
    weights: Any,
) -> list[Any]:
    layered = params_of(weights, Sizes(D, bias, spec))
    y, h_n, layers = stack.forward(x, h0, layered, _options(spec, valid, resets), masks)
    return [y, h_n, *flat_tape(layers)]


def _backward(
    stack: Any,
    D: int,
    bias: bool,
    spec: str,
    x: Any,
    dy: Any,
    dh_n: Any,
    valid: Any,
    resets: Any,
    masks: Any,
    weights: Any,
    tape: Any,
) -> list[Any]:
    x = x if valid is None else torch.where(valid[..., None], x, 0.0)
    layers = tapes_of(x, tape, weights, valid, resets, Sizes(D, bias, spec))
    grads = stack.backward(layers, dy, dh_n, masks)
    return [grads.x, grads.h0, *flat_params(grads.params)]


def _options(spec: str, valid: Any, resets: Any) -> Options:
    found = spec_of(spec)
    return Options(found, valid, resets, found.reverse, "all")


def _fastest(
    function: Literal["forward", "backward"],
    x: Any,
    weights: Any,
    valid: Any,
    resets: Any,
    masks: Any,
    sizes: Sizes,
) -> Any:
    """The stack over the fastest kernel that fits, as `gru_forward` and `gru_backward` choose it."""
    options = _options(sizes.spec, None if valid is None else True, None if resets is None else True)
    counts, dropout = (weights[1].shape[1], len(weights)), masks is not None
    return _chosen(function, x.device, x.dtype, x.shape, counts, sizes, options, dropout, kernel_policy())


@lru_cache(maxsize=1024)
def _chosen(
    function: Literal["forward", "backward"],
    device: Any,
    dtype: Any,
    shape: tuple[int, ...],
    counts: tuple[int, int],
    sizes: Sizes,
    options: Options,
    dropout: bool,
    policy: str,
) -> Any:
    H, count = counts
    L = count // (sizes.D * (4 if sizes.bias else 2))
    backend = load("torch")
    of_params = params.Sizes(shape[2], H, L, sizes.D, sizes.bias)
    call = Call.of(function, backend, device, backend.dtype_name(dtype), shape, of_params, options, dropout=dropout)
    return backend.stack(choose(call, policy).kernel)
