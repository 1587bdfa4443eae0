"""Keras 3: the layer `GRU`, run by gru_xp where Keras's backend is PyTorch or JAX."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

import gru_xp

__all__ = ["GRU"]

BACKENDS = ("torch", "jax")


@keras.saving.register_keras_serializable(package="gru_xp_keras")
class GRU(keras.layers.GRU):
    """keras.layers.GRU with its arguments, weights, masks and results, run by gru_xp.

    Args:
        units: H.
        recurrent_dropout: 0; other values are refused.
        implementation: 2; 1, which drops inputs for each gate apart, is refused where there is dropout.
        **options: as keras.layers.GRU has them. Activations are those of `gru_xp.Activation`; `unroll` and `use_cudnn`
            change no number, and are not used.

    >>> import keras, gru_xp_keras
    >>> layer = gru_xp_keras.GRU(4, return_sequences=True, return_state=True)
    >>> y, state = layer(keras.random.normal((2, 7, 3)))
    >>> tuple(y.shape), tuple(state.shape)
    ((2, 7, 4), (2, 4))
    """

    def __init__(self, units: int, **options: Any):
        if keras.backend.backend() not in BACKENDS:
            raise gru_xp.errors.BackendError(
                f"gru_xp_keras.GRU: expected Keras on PyTorch or JAX, got {keras.backend.backend()}; set "
                f"KERAS_BACKEND=torch or KERAS_BACKEND=jax before keras is imported, or use keras.layers.GRU"
            )
        super().__init__(units, **options)
        if self.recurrent_dropout != 0.0:
            raise ValueError(f"recurrent_dropout: expected 0, got {self.recurrent_dropout}; keras.layers.GRU has it")
        if self.dropout != 0.0 and self.cell.implementation != 2:
            raise ValueError("implementation: expected 2 where there is dropout, got 1; keras.layers.GRU has it")
        self._spec = gru_xp.GRUSpec(
            self.reset_after,
            _activation("recurrent_activation", self.recurrent_activation),
            _activation("activation", self.activation),
            reverse=self.go_backwards,
            padding="zero" if self.zero_output_for_mask else "hold",
        )

    def inner_loop(self, sequences: Any, initial_state: Any, mask: Any, training: Any = False) -> Any:
        """x (N, T, I) -> the last output (N, H), all outputs (N, T, H), [the last state (N, H)]."""
        w = self._params()
        dropped = self.cell.get_dropout_mask(sequences[:, 0]) if training else None
        x = sequences if dropped is None else sequences * dropped[:, None]
        x = ops.transpose(ops.cast(x, w.W_ih.dtype), (1, 0, 2))
        h0 = ops.cast(keras.tree.flatten(initial_state)[0], w.W_ih.dtype)
        mask = None if mask is None else ops.transpose(ops.cast(keras.tree.flatten(mask)[0], "bool"))
        y, h_n = gru_xp.gru(x, ((w,),), h0[None], mask=mask, spec=self._spec)
        if self.go_backwards:
            y, mask = ops.flip(y, 0), None if mask is None else ops.flip(mask, 0)
        if mask is not None and (self.unroll or keras.backend.backend() == "torch"):
            # before the first valid step Keras's loop in JAX puts out the first state, its other loops zero
            y = ops.where(ops.cumsum(ops.cast(mask, "int32"), 0)[..., None] > 0, y, ops.zeros_like(y))
        outputs = ops.transpose(y, (1, 0, 2))
        return y[-1], outputs if self.return_sequences else outputs[:, -1:], [h_n[0]]

    def _params(self) -> gru_xp.CellParams:
        """Keras has the gates z, r, n side by side, and a bias for both sides only where the reset is after."""
        cell = self.cell
        W_ih, W_hh = (_gates(ops.transpose(ops.convert_to_tensor(a))) for a in (cell.kernel, cell.recurrent_kernel))
        if cell.bias is None:
            return gru_xp.CellParams(W_ih, W_hh)
        b = ops.convert_to_tensor(cell.bias)
        b_ih, b_hh = (b[0], b[1]) if self.reset_after else (b, ops.zeros_like(b))
        return gru_xp.CellParams(W_ih, W_hh, _gates(b_ih), _gates(b_hh))


def _gates(a: Any) -> Any:
    """(3H, ...) in the order z, r, n -> r, z, n."""
    z, r, n = ops.split(a, 3, axis=0)
    return ops.concatenate([r, z, n], axis=0)


def _activation(argument: str, function: Any) -> gru_xp.Activation:
    name = str(getattr(function, "__name__", ""))
    if getattr(keras.activations, name, None) is not function:
        raise ValueError(f"{argument}: expected one of Keras's own, got {function!r}; keras.layers.GRU runs any")
    return gru_xp.Activation.keras(name)
