"""JAX's differentiation of a layer by the library's own backward, in both modes and to any order.

The derivative of a layer in a direction is the transpose of its backward, which is linear. So the rule for forward
mode is the transposed backward, and JAX's reverse mode transposes that again. What runs is the backward itself: one
loop with one product a step, and one large product for the gradient of each weight, over all steps.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from gru_xp.interfaces import Options
from gru_xp.layer import Layer, Run
from gru_xp.params import CellParams, GRUSpec, LayerTape

__all__ = ["Derivable", "DifferentiableLayer", "PlainLayer"]


class Derivable:
    """A layer with a derivative of its own: what `run` computes has the tape of `forward`, and the `tangents`."""

    run: Any  # as `inference`, without a derivative of its own
    forward: Any
    tangents: Any

    def inference(self, x: Any, h0: Any, w: CellParams, options: Options, /) -> tuple[Any, Any]:
        """x (T, N, I), h0 (N, H) -> y (T, N, H), h_n (N, H)."""
        spec, valid, resets, reverse, _ = options
        return inference(self, spec, reverse, x, h0, w, valid, resets)

    def differentiated(self, x: Any) -> Derivable:
        """The layer that computes the derivative."""
        return self


class PlainLayer(Layer):
    """The plain layer, with sums as XLA is fast at them."""

    def sum_of_rows(self, a: Any) -> Any:
        # as a product, which XLA is faster at on a CPU
        ones = jnp.ones_like(a[..., 0])
        return jnp.tensordot(ones, a, axes=((0, 1), (0, 1)), precision=jax.lax.Precision.HIGHEST)


class DifferentiableLayer(Derivable, PlainLayer):
    """The plain layer with a derivative of its own."""

    run = PlainLayer.inference

    def tangents(self, tape: LayerTape, y: Any, h_n: Any, dx: Any, dh0: Any, dw: CellParams, /) -> tuple[Any, Any]:
        """The derivatives (T, N, H), (N, H) of y and h_n along dx, dh0 and dw; only the shapes of y and h_n matter."""
        dy, dh_n = jax.linear_transpose(partial(self.backward, tape), y, h_n)((dx, dh0, dw))
        return dy, dh_n

    def loop_back(
        self, run: Run, dh: Any, dy: Any, cut: Any, slopes: Any, saved: Any, *, reverse: bool
    ) -> tuple[Any, Any, Any]:
        """As `Layer.loop_back` without slopes: all that is pointwise is in the loop, where XLA fuses it.

        `jax.checkpoint`, because JAX would otherwise take what is not linear out of the loop and keep it for all steps.
        """
        cell = run.cell
        if not cell.from_gates:
            return super().loop_back(run, dh, dy, cut, slopes, saved, reverse=reverse)

        @partial(jax.checkpoint, prevent_cse=False)
        def step(dh: Any, at: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
            dy_t, cut_t, h_prev, r, z, n, u = at
            g = dh if dy_t is None else dh + dy_t
            dh, dgi, dgh = cell.gradient(g, h_prev, r, z, n, u, run.w)
            return self.zero_where(cut_t, dh), (dgi, dgh)

        dh, (dgi, dgh) = self.backend.scan(step, dh, (dy, cut, *saved), reverse=reverse)
        return dh, dgi, dgh

    def scan_blocks(
        self, block: Any, carry: Any, xs: tuple[Any, ...], *, T: int, size: int, reverse: bool
    ) -> tuple[Any, Any]:
        """All steps in one block: what differentiation keeps grows with T in any case."""
        carry, (out,) = block(carry, xs)
        return carry, out


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def inference(
    layer: Derivable, spec: GRUSpec, reverse: bool, x: Any, h0: Any, w: CellParams, valid: Any, resets: Any
) -> tuple[Any, Any]:
    """x (T, N, I), h0 (N, H) -> y (T, N, H), h_n (N, H)."""
    return layer.run(x, h0, w, Options(spec, valid, resets, reverse))


@inference.defjvp
def _(layer: Derivable, spec: GRUSpec, reverse: bool, primals: Any, tangents: Any) -> Any:
    x, h0, w, valid, resets = primals
    layer = layer.differentiated(x)
    y, h_n, tape = layer.forward(x, h0, w, Options(spec, valid, resets, reverse, "all"))
    return (y, h_n), layer.tangents(tape, y, h_n, *tangents[:3])
