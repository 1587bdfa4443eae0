"""PyTorch's differentiation through the library's own forward and backward, to any order.

Two opaque operators, `gru_xp::forward` and `gru_xp::backward`, run whatever kernel fits. Above them stand two
`autograd.Function`s: the backward of `Forward` is `Backward`, and the backward of that is the plain path differentiated
twice, which can be differentiated again. Forward mode goes through the plain path from the start, because autograd
finds every derivative of it by itself.
"""

from __future__ import annotations

from typing import Any

import torch

from gru_xp.errors import NotDifferentiableError
from gru_xp.params import GRUSpec

from . import forward_mode, operators
from .flat import Sizes, coded, flat_params

__all__ = ["Differentiable"]


class Differentiable:
    """A stack, inference alone, that autograd, `torch.func` and `torch.compile` differentiate and trace."""

    name = "autograd"

    def inference(
        self, x: Any, h0: Any, params: Any, /, *, spec: GRUSpec, valid: Any, resets: Any, dropout_masks: Any
    ) -> tuple[Any, Any]:
        """x (T, N, I), h0 (L*D, N, H) -> y (T, N, D*H), h_n (L*D, N, H)."""
        sizes = Sizes(len(params[0]), params[0][0].b_ih is not None, coded(spec))
        weights = flat_params(params)
        arrays = (x, h0, valid, resets, dropout_masks)
        if dropout_masks is not None and dropout_masks.requires_grad:  # `gru_backward` has no gradient for masks
            return operators.plain(*sizes, *arrays, weights)
        recorded = torch.is_grad_enabled() and any(a.requires_grad for a in (x, h0, *weights))
        if torch.compiler.is_compiling() and not recorded:
            y, h_n, *_ = operators.forward(*sizes, *arrays, weights)
        else:
            y, h_n, *_ = applied(Forward, QuickForward)(*sizes, *arrays, *weights)
        return y, h_n


class Forward(torch.autograd.Function):
    """y, h_n and the tape, the latter as constants."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Any, ...]:
        D, bias, spec, x, h0, valid, resets, masks, *weights = args
        run = operators.forward if opaque() else operators.forward_now
        return tuple(run(D, bias, spec, x, h0, valid, resets, masks, weights))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        D, bias, spec, *arrays = inputs
        ctx.sizes, ctx.count = Sizes(D, bias, spec), len(arrays)
        ctx.mark_non_differentiable(*output[2:])
        ctx.set_materialize_grads(False)  # or the tape would get zeros
        ctx.save_for_backward(*arrays, *output[2:])

    @staticmethod
    def backward(ctx: Any, dy: Any, dh_n: Any, *_: Any) -> tuple[Any, ...]:
        saved = ctx.saved_tensors  # asked for once, or `checkpoint` would compute everything again
        x, h0, valid, resets, masks, *weights = saved[: ctx.count]
        tape = saved[ctx.count :]
        if dy is None:
            dy = x.new_zeros(*x.shape[:-1], ctx.sizes.D * h0.shape[-1])
        if dh_n is None:
            dh_n = torch.zeros_like(h0)
        watched = (x, h0, dy, dh_n, valid, resets, masks)
        if torch.compiler.is_compiling():  # a compiled backward is never differentiated
            dx, dh0, *dweights = operators.backward(*ctx.sizes, x, dy, dh_n, valid, resets, masks, weights, tape)
        elif any(map(torch._C._functorch.is_legacy_batchedtensor, (dy, dh_n))):
            raise NotDifferentiableError(
                "gradients: a batch of them (is_grads_batched=True, vectorize=True) is not offered; "
                "use jacrev, or vjp and vmap, of torch.func"
            )
        elif forward_mode():
            dx, dh0, *dweights = plain_gradients(ctx.sizes, *watched, weights)
        else:
            dx, dh0, *dweights = applied(Backward, QuickBackward)(len(weights), *ctx.sizes, *watched, *weights, *tape)
        return None, None, None, dx, dh0, None, None, None, *dweights


class Backward(torch.autograd.Function):
    """dx, dh0 and the weights' gradients as a function of x, h0, dy, dh_n and the weights; the tape is no argument."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[Any, ...]:
        count, D, bias, spec, x, _, dy, dh_n, valid, resets, masks, *rest = args
        run = operators.backward if opaque() else operators.backward_now
        return tuple(run(D, bias, spec, x, dy, dh_n, valid, resets, masks, rest[:count], rest[count:]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        count, D, bias, spec, *arrays = inputs
        ctx.sizes, ctx.rest = Sizes(D, bias, spec), len(arrays) - 7 - count
        ctx.save_for_backward(*arrays[: 7 + count])

    @staticmethod
    def backward(ctx: Any, *v: Any) -> tuple[Any, ...]:
        x, h0, dy, dh_n, valid, resets, masks, *weights = ctx.saved_tensors

        def gradients(x: Any, h0: Any, dy: Any, dh_n: Any, *weights: Any) -> Any:
            return plain_gradients(ctx.sizes, x, h0, dy, dh_n, valid, resets, masks, weights)

        dx, dh0, ddy, ddh_n, *dweights = torch.func.vjp(gradients, x, h0, dy, dh_n, *weights)[1](v)
        return None, None, None, None, dx, dh0, ddy, ddh_n, None, None, None, *dweights, *([None] * ctx.rest)


class QuickForward(torch.autograd.Function):
    """`Forward` without transforms; `apply` asks for the signature of a function that has `setup_context`."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        output = Forward.forward(*args)
        Forward.setup_context(ctx, args, output)
        return output

    backward = Forward.backward


class QuickBackward(torch.autograd.Function):
    """`Backward` without transforms."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        output = Backward.forward(*args)
        Backward.setup_context(ctx, args, output)
        return output

    backward = Backward.backward


def applied(function: Any, quick: Any) -> Any:
    """`apply` of the function, or of its quick form where nobody looks on."""
    return function.apply if opaque() else quick.apply


def opaque() -> bool:
    """Whether somebody looks on, so that the operators have to be called as such; it costs some time."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def plain_gradients(
    sizes: Sizes, x: Any, h0: Any, dy: Any, dh_n: Any, valid: Any, resets: Any, masks: Any, weights: Any
) -> Any:
    """What `Backward` computes, by operations that autograd knows."""

    def forward(x: Any, h0: Any, *weights: Any) -> Any:
        return operators.plain(*sizes, x, h0, valid, resets, masks, weights)

    return torch.func.vjp(forward, x, h0, *weights)[1]((dy, dh_n))
