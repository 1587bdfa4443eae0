"""Flax NNX: `RNN` over a `GRUCell`."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from flax.nnx import GRUCell

from gru_xp import CellParams

from .sequences import assert_is, run, spec_of

__all__ = ["RNN", "GRUCell"]


class RNN(nnx.RNN):
    """flax.nnx.RNN over a flax.nnx.GRUCell, with its arguments, parameters, states and results, run by gru_xp.

    The cell is Flax's own class. A scan of your own around it is compiled by XLA, as before.

    Args:
        cell: a flax.nnx.GRUCell; other cells are refused.
        **options: as flax.nnx.RNN has them. `unroll`, `state_axes` and `broadcast_rngs` change no number, and are not
            used.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from gru_xp_flax.nnx import RNN
    >>> layer = RNN(nnx.GRUCell(3, 4, rngs=nnx.Rngs(0)))
    >>> layer(jnp.ones((2, 7, 3), jnp.float32)).shape
    (2, 7, 4)
    """

    def __init__(self, cell: GRUCell, **options: Any):
        super().__init__(cell, **options)
        _assert_known(cell)

    def __call__(
        self,
        inputs: Any,
        *,
        initial_carry: Any = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        rngs: Any = None,
        resets: Any = None,
    ) -> Any:
        """inputs (..., T, I), or (T, ..., I) if `time_major` -> y of that shape, H last; with the carry before it.

        All arguments but the last are those of flax.nnx.RNN.

        Args:
            inputs: x.
            initial_carry: (..., H); by default what the cell's `initialize_carry` gives.
            seq_lengths: (...) integers.
            return_carry: whether to return (carry, y), the carry being the state at each row's length.
            time_major: whether the first axis of inputs has the steps.
            reverse: whether to run backwards in time.
            keep_order: whether y has the order of the inputs where `reverse`.
            rngs: for `initialize_carry`.
            resets: booleans of inputs' shape without the features: the state is set to zero before the step.
        """
        cell: Any = self.cell
        _assert_known(cell)
        carrying = self.return_carry if return_carry is None else return_carry
        major = self.time_major if time_major is None else time_major
        time_axis = 0 if major else inputs.ndim - 2
        rngs = self.rngs if rngs is None else rngs.carry.fork() if isinstance(rngs, nnx.Rngs) else rngs
        if initial_carry is None:
            initial_carry = cell.initialize_carry(inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :], rngs)
        carry, y = run(
            inputs,
            _params(cell),
            initial_carry,
            spec_of(cell, "flax.nnx.RNN"),
            cell.dtype,
            time_axis=time_axis,
            reverse=self.reverse if reverse is None else reverse,
            keep_order=self.keep_order if keep_order is None else keep_order,
            lengths=seq_lengths,
            resets=resets,
        )
        return (carry, y) if carrying else y


def _assert_known(cell: Any) -> None:
    assert_is(GRUCell, cell, "cell", "flax.nnx.RNN")
    spec_of(cell, "flax.nnx.RNN")
    for name in ("dense_i", "dense_h"):  # someone may have put an adapter there
        assert_is(nnx.Linear, getattr(cell, name), f"cell.{name}", "flax.nnx.RNN")
    if cell.promote_dtype is not nnx.nn.dtypes.promote_dtype:
        raise ValueError("promote_dtype: expected Flax's own, got another function; flax.nnx.RNN runs any")


def _params(cell: Any) -> CellParams:
    b = cell.dense_i.bias.get_value()
    return CellParams(cell.dense_i.kernel.get_value().T, cell.dense_h.kernel.get_value().T, b, jnp.zeros_like(b))
