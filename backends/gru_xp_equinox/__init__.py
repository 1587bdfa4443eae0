"""Equinox: `RNN`, the layer over an `equinox.nn.GRUCell` that Equinox leaves to its users, run by gru_xp.

The cell, and so the parameters, are Equinox's. Inside the call they are mapped to gru_xp's: Equinox's cell has one bias
where cuDNN's equations have two that are added, and a gradient for both would count twice.
"""

from __future__ import annotations

from typing import Any

import equinox
import jax.numpy as jnp

import gru_xp

__all__ = ["RNN"]


class RNN(equinox.Module):
    """A GRU over sequences, instead of `jax.lax.scan` over the cell.

    Args:
        cell: an equinox.nn.GRUCell; other cells are refused.

    >>> import equinox, jax
    >>> from gru_xp_equinox import RNN
    >>> layer = RNN(equinox.nn.GRUCell(3, 4, key=jax.random.key(0)))
    >>> carry, y = layer(jax.numpy.ones((7, 3)))
    >>> carry.shape, y.shape
    ((4,), (7, 4))
    >>> jax.vmap(layer)(jax.numpy.ones((2, 7, 3)))[1].shape
    (2, 7, 4)
    """

    cell: equinox.nn.GRUCell

    def __check_init__(self) -> None:
        if type(self.cell) is not equinox.nn.GRUCell:
            raise TypeError(
                f"cell: expected an equinox.nn.GRUCell, got a {type(self.cell).__name__}; jax.lax.scan runs any cell"
            )

    def __call__(
        self, xs: Any, hidden: Any = None, *, reverse: bool = False, lengths: Any = None, resets: Any = None
    ) -> tuple[Any, Any]:
        """xs (T, I) or, steps first, (T, N, I) -> the last state (H,) or (N, H) and all states, in the order of xs.

        Args:
            xs: the inputs.
            hidden: the first state, (H,) or (N, H); zero by default.
            reverse: whether to run backwards in time, as in `jax.lax.scan`.
            lengths: (N,) integers: past a row's end its states are zero, and its last state is that at its length.
            resets: (T,) or (T, N) booleans: the state is set to zero before the step.
        """
        cell = self._params()
        dtype = jnp.result_type(*(a for a in (xs, hidden, *cell) if a is not None))
        w = gru_xp.CellParams(*(None if a is None else a.astype(dtype) for a in cell))
        h0 = None if hidden is None else hidden[None].astype(dtype)
        spec = gru_xp.GRUSpec(reverse=reverse)
        y, h_n = gru_xp.gru(xs.astype(dtype), ((w,),), h0, lengths=lengths, resets=resets, spec=spec)
        return h_n[0], y

    def _params(self) -> gru_xp.CellParams:
        cell: Any = self.cell
        if cell.bias is None:
            return gru_xp.CellParams(cell.weight_ih, cell.weight_hh)
        b_hh = jnp.concatenate([jnp.zeros(2 * cell.hidden_size, cell.bias_n.dtype), cell.bias_n])
        return gru_xp.CellParams(cell.weight_ih, cell.weight_hh, cell.bias, b_hh)
