"""Flax linen: `RNN` over a `GRUCell`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from flax.linen import GRUCell

from gru_xp import CellParams

from .sequences import assert_is, run, spec_of

__all__ = ["RNN", "GRUCell"]

FIXED = {"variable_axes": {}, "variable_broadcast": "params", "variable_carry": False}


class RNN(linen.RNN):
    """flax.linen.RNN over a flax.linen.GRUCell, with its fields, variables and results, run by gru_xp.

    The cell is Flax's own class. A scan of your own around it is compiled by XLA, as before. `init` runs Flax's
    layer, which draws the parameters.

    >>> import jax, jax.numpy as jnp
    >>> from flax import linen
    >>> from gru_xp_flax.linen import RNN
    >>> layer, x = RNN(linen.GRUCell(4)), jnp.ones((2, 7, 3), jnp.float32)
    >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
    (2, 7, 4)
    """

    def __call__(
        self,
        inputs: Any,
        *,
        initial_carry: Any = None,
        init_key: Any = None,
        seq_lengths: Any = None,
        return_carry: bool | None = None,
        time_major: bool | None = None,
        reverse: bool | None = None,
        keep_order: bool | None = None,
        resets: Any = None,
    ) -> Any:
        """inputs (..., T, I), or (T, ..., I) if `time_major` -> y of that shape, H last; with the carry before it.

        All arguments but the last are those of flax.linen.RNN.

        Args:
            inputs: x.
            initial_carry: (..., H); by default what the cell's `initialize_carry` gives.
            init_key: for `initialize_carry`.
            seq_lengths: (...) integers.
            return_carry: whether to return (carry, y), the carry being the state at each row's length.
            time_major: whether the first axis of inputs has the steps.
            reverse: whether to run backwards in time.
            keep_order: whether y has the order of the inputs where `reverse`.
            resets: booleans of inputs' shape without the features: the state is set to zero before the step.
        """
        assert_is(GRUCell, self.cell, "cell", "flax.linen.RNN")
        spec = spec_of(self.cell, "flax.linen.RNN")
        for name, value in FIXED.items():
            if getattr(self, name) != value:
                raise ValueError(f"{name}: expected {value!r}, got another value; flax.linen.RNN runs any")
        carrying = self.return_carry if return_carry is None else return_carry
        major = self.time_major if time_major is None else time_major
        if self.is_initializing():
            super().__call__(inputs, initial_carry=initial_carry, time_major=major)
        time_axis = 0 if major else inputs.ndim - 2
        if initial_carry is None:
            key = jax.random.key(0) if init_key is None else init_key
            initial_carry = self.cell.initialize_carry(key, inputs.shape[:time_axis] + inputs.shape[time_axis + 1 :])
        carry, y = run(
            inputs,
            _params(linen.meta.unbox(self.cell.variables["params"])),
            initial_carry,
            spec,
            self.cell.dtype,
            time_axis=time_axis,
            reverse=self.reverse if reverse is None else reverse,
            keep_order=self.keep_order if keep_order is None else keep_order,
            lengths=seq_lengths,
            resets=resets,
        )
        return (carry, y) if carrying else y


def _params(tree: Any) -> CellParams:
    """What `to_linen` writes, read: the layers of r, z and n, of which "hn" has a bias."""
    W_ih, W_hh = (jnp.concatenate([tree[f"{side}{gate}"]["kernel"].T for gate in "rzn"]) for side in "ih")
    b_hn = tree["hn"]["bias"]
    b_hh = jnp.concatenate([jnp.zeros(2 * len(b_hn), b_hn.dtype), b_hn])
    return CellParams(W_ih, W_hh, jnp.concatenate([tree[f"i{gate}"]["bias"] for gate in "rzn"]), b_hh)
