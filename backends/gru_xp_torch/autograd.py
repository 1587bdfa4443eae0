"""PyTorch's differentiation through the library's own forward and backward, to any order.

Two opaque operators, `gru_xp::forward` and `gru_xp::backward`, run whatever kernel fits. Above them are two
`autograd.Function`s: the backward of `Forward` is `Backward`, and the backward of that is the plain path differentiated
twice, which can be differentiated again. Forward mode goes through the plain path from the start, because autograd
finds every derivative of it.
"""

from __future__ import annotations

from typing import Any

import torch

from gru_xp.errors import NotDifferentiableError
from gru_xp.interfaces import Options

from . import operators
from .flat import Sizes, flat_params
from .watching import dispatches, forward_mode, traced, transforms

__all__ = ["Differentiable", "gradients", "transformed"]


class Differentiable:
    """A stack, inference alone, that autograd, `torch.func` and `torch.compile` differentiate and trace."""

    name = "autograd"

    def inference(self, x: Any, h0: Any, params: Any, options: Options, dropout_masks: Any, /) -> tuple[Any, Any]:
        """x (T, N, I), h0 (L*D, N, H) -> y (T, N, D*H), h_n (L*D, N, H)."""
        sizes = Sizes(len(params[0]), params[0][0].b_ih is not None, options.spec.text)
        weights = flat_params(params)
        arrays = (x, h0, options.valid, options.resets, dropout_masks)
        if dropout_masks is not None and dropout_masks.requires_grad:  # `gru_backward` has no gradient for masks
            return operators.plain(*sizes, *arrays, weights)
        recorded = torch.is_grad_enabled() and any(a.requires_grad for a in (x, h0, *weights))
        if torch.compiler.is_compiling() and transforms():
            torch._dynamo.graph_break(
                msg="gru_xp: torch.compile cannot compile grad, vjp and vmap of torch.func; call them outside of it"
            )
        opaque = traced() or any(dispatches(a) for a in (x, h0, *weights))
        if opaque and (not recorded or torch._C._get_tracing_state() is not None):
            y, h_n, *_ = operators.forward(*sizes, *arrays, weights)
            return y, h_n
        opaque = opaque or transforms()
        function: Any = Forward if opaque else DirectForward
        y, h_n, *_ = function.apply(*sizes, *arrays, *weights)
        return y, h_n


class Forward(torch.autograd.Function):
    """y, h_n and the tape, the latter as constants."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Any, ...]:
        D, bias, spec, x, h0, valid, resets, masks, *weights = args
        return tuple(operators.forward(D, bias, spec, x, h0, valid, resets, masks, weights))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.mark_non_differentiable(*output[2:])
        Forward.keep(ctx, inputs, output[2:])

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], tape: Any) -> None:
        """Save what backward needs."""
        D, bias, spec, *arrays = inputs
        ctx.sizes, ctx.count = Sizes(D, bias, spec), len(arrays)
        ctx.set_materialize_grads(False)  # or the tape would get zeros
        ctx.save_for_backward(*arrays, *tape)

    @staticmethod
    def backward(ctx: Any, dy: Any, dh_n: Any, *_: Any) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # asked for once, or `checkpoint` would compute everything again
        arrays, tape = saved[: ctx.count], saved[ctx.count :]
        dx, dh0, *dweights = gradients(ctx.sizes, arrays, tape, dy, dh_n)
        return None, None, None, dx, dh0, None, None, None, *dweights


def gradients(sizes: Sizes, arrays: Any, tape: Any, dy: Any, dh_n: Any) -> Any:
    """dx, dh0 and the weights' gradients, by a kernel or, where they are to be differentiated again, by `Backward`.

    `arrays` are x, h0, valid, resets, masks and the weights; dy and dh_n may be None.
    """
    x, h0, valid, resets, masks, *weights = arrays
    opaque = traced() or any(a is not None and dispatches(a) for a in (x, dy, dh_n))
    if not (opaque or torch.is_grad_enabled() or transformed(dy, dh_n)):
        return operators.backward_now(*sizes, x, dy, dh_n, valid, resets, masks, weights, tape)
    dy = x.new_zeros(*x.shape[:-1], sizes.D * h0.shape[-1]) if dy is None else dy
    dh_n = torch.zeros_like(h0) if dh_n is None else dh_n
    watched = (x, h0, dy, dh_n, valid, resets, masks)
    if torch.compiler.is_compiling():  # a compiled backward is never differentiated
        return operators.backward(*sizes, x, dy, dh_n, valid, resets, masks, weights, tape)
    if forward_mode():
        return plain_gradients(sizes, *watched, weights)
    return Backward.apply(len(weights), *sizes, *watched, *weights, *tape)  # type: ignore[no-untyped-call]


class Backward(torch.autograd.Function):
    """dx, dh0 and the weights' gradients as a function of x, h0, dy, dh_n and the weights; the tape is no argument."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Any, ...]:
        count, D, bias, spec, x, _, dy, dh_n, valid, resets, masks, *rest = args
        sizes = (D, bias, spec)
        return tuple(operators.backward(*sizes, x, dy, dh_n, valid, resets, masks, rest[:count], rest[count:]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        count, D, bias, spec, *arrays = inputs
        ctx.sizes, ctx.rest = Sizes(D, bias, spec), len(arrays) - 7 - count
        ctx.save_for_backward(*arrays[: 7 + count])

    @staticmethod
    def backward(ctx: Any, *v: Any) -> tuple[Any, ...]:
        x, h0, dy, dh_n, valid, resets, masks, *weights = ctx.saved_tensors

        def first_order(x: Any, h0: Any, dy: Any, dh_n: Any, *weights: Any) -> Any:
            return plain_gradients(ctx.sizes, x, h0, dy, dh_n, valid, resets, masks, weights)

        dx, dh0, ddy, ddh_n, *dweights = torch.func.vjp(first_order, x, h0, dy, dh_n, *weights)[1](v)
        return None, None, None, None, dx, dh0, ddy, ddh_n, None, None, None, *dweights, *([None] * ctx.rest)


class DirectForward(torch.autograd.Function):
    """`Forward` without an operator in between, where nothing traces; the tape is kept without being an output."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Any, Any]:
        D, bias, spec, x, h0, valid, resets, masks, *weights = args
        y, h_n, *tape = operators.forward_now(D, bias, spec, x, h0, valid, resets, masks, weights)
        Forward.keep(ctx, args, tape)
        return y, h_n.clone() if h_n._is_view() else h_n  # a view of ours could not be written to

    backward = Forward.backward


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Any]) -> None:
    *options, weights = inputs
    Forward.keep(ctx, (*options, *weights), output[2:])


def _backward(ctx: Any, grads: list[Any]) -> tuple[Any, ...]:
    first = Forward.backward(ctx, *grads)
    return (*first[:8], list(first[8:]))


# for who calls the operator itself, as do graphs that torch.export, torch.jit.trace and make_fx have made
operators.forward.register_autograd(_backward, setup_context=_keep)


def transformed(dy: Any, dh_n: Any) -> bool:
    """Whether a transform works on the gradients, which then cannot be handed to a kernel."""
    legacy = torch._C._functorch.is_legacy_batchedtensor
    if (dy is not None and legacy(dy)) or (dh_n is not None and legacy(dh_n)):
        raise NotDifferentiableError(
            "gradients: a batch of them (is_grads_batched=True, vectorize=True) is not offered; "
            "use jacrev, or vjp and vmap, of torch.func"
        )
    return forward_mode() or transforms()


def plain_gradients(
    sizes: Sizes, x: Any, h0: Any, dy: Any, dh_n: Any, valid: Any, resets: Any, masks: Any, weights: Any
) -> Any:
    """What `Backward` computes, by operations that autograd knows."""

    def forward(x: Any, h0: Any, *weights: Any) -> Any:
        return operators.plain(*sizes, x, h0, valid, resets, masks, weights)

    return torch.func.vjp(forward, x, h0, *weights)[1]((dy, dh_n))
