"""Models as the cells of JAX's frameworks: Flax (linen and NNX) and Equinox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gru_xp.checks import sizes_of
from gru_xp.errors import ConversionError
from gru_xp.formats.layouts import Folded, folded, note_of_folding
from gru_xp.module import GRU, as_stored
from gru_xp.params import CellParams
from gru_xp.stored import Note, Report, StoredGRU, assert_spec

__all__ = ["Cells", "to_equinox", "to_linen", "to_nnx"]


class Cells(NamedTuple):
    """What a model became: `cells[layer][direction]`, and what that cost."""

    cells: tuple[tuple[Any, ...], ...]
    report: Report


def to_linen(model: GRU) -> Cells:
    """The parameters of a `flax.linen.GRUCell` for each layer and direction.

    >>> import gru_xp, gru_xp_jax
    >>> cells, report = gru_xp_jax.to_linen(gru_xp.GRU(3, 4))
    >>> variables = {"params": {"cell": cells[0][0]}}  # of flax.linen.RNN(flax.linen.GRUCell(4))
    >>> sorted(cells[0][0]), report.notes[0].fate
    (['hn', 'hr', 'hz', 'in', 'ir', 'iz'], 'folded')
    """

    def cell(w: CellParams, one: Folded, put: Callable[[Any], Any]) -> Any:
        b, b_n = _biases(w, one)
        tree: dict[str, Any] = {}
        for gate, W_ih, W_hh, bias in zip("rzn", np.split(w.W_ih, 3), np.split(w.W_hh, 3), np.split(b, 3), strict=True):
            tree[f"i{gate}"] = {"kernel": put(W_ih.T), "bias": put(bias)}
            tree[f"h{gate}"] = {"kernel": put(W_hh.T)}
        tree["hn"]["bias"] = put(b_n)
        return tree

    return _cells(model, "Flax's GRUCell", cell)


def to_nnx(model: GRU) -> Cells:
    """A `flax.nnx.GRUCell` for each layer and direction; refused if b_hh of the candidate is not zero."""
    from flax import nnx

    def cell(w: CellParams, one: Folded, put: Callable[[Any], Any]) -> Any:
        b, b_n = _biases(w, one)
        if b_n.any():
            raise ConversionError(
                "b_hh of the candidate n is not zero, and Flax NNX's GRUCell has no such bias, though its docstring "
                "says so (https://github.com/google/flax/issues/5594); flax.linen's has it"
            )
        H, I = w.W_hh.shape[1], w.W_ih.shape[1]
        made: Any = nnx.GRUCell(I, H, param_dtype=put(b).dtype, rngs=nnx.Rngs(0))
        made.dense_i.kernel[...] = put(w.W_ih.T)
        made.dense_i.bias[...] = put(b)
        made.dense_h.kernel[...] = put(w.W_hh.T)
        return made

    return _cells(model, "Flax NNX's GRUCell", cell)


def to_equinox(model: GRU) -> Cells:
    """An `equinox.nn.GRUCell` for each layer and direction."""
    import equinox
    import jax

    def cell(w: CellParams, one: Folded, put: Callable[[Any], Any]) -> Any:
        H, I = w.W_hh.shape[1], w.W_ih.shape[1]
        made = equinox.nn.GRUCell(I, H, use_bias=one.b is not None, dtype=put(w.W_ih).dtype, key=jax.random.key(0))
        names = ("weight_ih", "weight_hh", "bias", "bias_n")[: 4 if made.use_bias else 2]
        arrays = [put(array) for array in (w.W_ih, w.W_hh, one.b, one.b_n) if array is not None]
        return equinox.tree_at(lambda cell: [getattr(cell, name) for name in names], made, arrays)

    return _cells(model, "Equinox's GRUCell", cell, has_no_biases=True)


def _cells(model: GRU, whose: str, cell: Callable[..., Any], *, has_no_biases: bool = False) -> Cells:
    stored: StoredGRU = as_stored(model)
    notes = list(assert_spec(stored, whose))
    sizes = sizes_of(stored.params)
    dtype = jnp.dtype(stored.dtype)

    def put(array: Any) -> Any:
        return jnp.asarray(np.ascontiguousarray(array)).astype(dtype)

    ones = [[folded(w, stored.dtype) for w in layer] for layer in stored.params]
    made = tuple(
        tuple(cell(w, one, put) for w, one in zip(layer, each, strict=True))
        for layer, each in zip(stored.params, ones, strict=True)
    )
    if not sizes.bias and not has_no_biases:
        notes.append(Note("changed", "no biases", f"{whose} has biases: they are zero"))
    if stored.dropout:
        notes.append(Note("ignored", f"dropout={stored.dropout}", "cells know of no layers between which it acts"))
    return Cells(made, Report((note_of_folding(all(one.lossless for each in ones for one in each)), *notes)))


def _biases(w: CellParams, one: Folded) -> tuple[Any, Any]:
    """Zeros where there are none."""
    if one.b is not None:
        return one.b, one.b_n
    return np.zeros(w.W_hh.shape[0], w.W_hh.dtype), np.zeros(w.W_hh.shape[1], w.W_hh.dtype)
