"""JAX's differentiation of a layer by the library's own backward, in both modes and to any order.

The derivative of a layer in a direction is the transpose of its backward, which is linear. So the rule for forward
mode is the transposed backward, and JAX's reverse mode transposes that again. What runs is the backward itself: one
loop with one product a step, and one large product for the gradient of each weight.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax

from gru_xp.layer import Layer
from gru_xp.params import CellParams, GRUSpec

__all__ = ["DifferentiableLayer"]


class DifferentiableLayer(Layer):
    """The plain layer with a derivative of its own."""

    def inference(
        self, x: Any, h0: Any, w: CellParams, /, *, spec: GRUSpec, valid: Any, resets: Any, reverse: bool
    ) -> tuple[Any, Any]:
        """As `Layer.inference`."""
        return inference(self, spec, reverse, x, h0, w, valid, resets)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def inference(
    layer: Layer, spec: GRUSpec, reverse: bool, x: Any, h0: Any, w: CellParams, valid: Any, resets: Any
) -> tuple[Any, Any]:
    """x (T, N, I), h0 (N, H) -> y (T, N, H), h_n (N, H)."""
    return Layer.inference(layer, x, h0, w, spec=spec, valid=valid, resets=resets, reverse=reverse)


@inference.defjvp
def _(layer: Layer, spec: GRUSpec, reverse: bool, primals: Any, tangents: Any) -> Any:
    x, h0, w, valid, resets = primals
    y, h_n, tape = layer.forward(x, h0, w, spec=spec, valid=valid, resets=resets, reverse=reverse, save="all")
    transposed = jax.linear_transpose(partial(layer.backward, tape), y, h_n)
    return (y, h_n), transposed(tangents[:3])
