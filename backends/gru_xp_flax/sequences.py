"""What both of Flax's layers do with a sequence around the GRU: axes, types, order and the last state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

import gru_xp

__all__ = ["assert_is", "run", "spec_of"]

ACTIVATIONS: dict[Any, gru_xp.Activation | str] = {
    jax.nn.sigmoid: "sigmoid",
    jnp.tanh: "tanh",
    jax.nn.relu: "relu",
    jax.nn.hard_sigmoid: gru_xp.Activation.keras("hard_sigmoid"),  # JAX's is relu6(a + 3) / 6 too
}


def spec_of(cell: Any, theirs: str) -> gru_xp.GRUSpec:
    """The equations of a cell; `theirs` is the layer that runs any cell."""
    found = []
    for name in ("gate_fn", "activation_fn"):
        function = getattr(cell, name)
        if function not in ACTIVATIONS:
            known = ", ".join(each.__name__ for each in ACTIVATIONS)
            raise ValueError(f"{name}: expected one of JAX's {known}, got {function!r}; {theirs} runs any function")
        found.append(ACTIVATIONS[function])
    return gru_xp.GRUSpec(gate_activation=found[0], candidate_activation=found[1])


def assert_is(kind: type, thing: Any, name: str, theirs: str) -> None:
    """It computes what `kind` does: subclasses may have other parameters, not another `__call__`."""
    if not isinstance(thing, kind) or type(thing).__call__ is not kind.__call__:
        expected = f"flax.{kind.__module__.split('.')[1]}.{kind.__name__}"
        raise TypeError(f"{name}: expected a {expected}, got a {type(thing).__name__}; {theirs} runs any cell")


def run(
    x: Any,
    w: gru_xp.CellParams,
    carry: Any,
    spec: gru_xp.GRUSpec,
    dtype: Any,
    *,
    time_axis: int,
    reverse: bool,
    keep_order: bool,
    lengths: Any,
    resets: Any,
) -> tuple[Any, Any]:
    """x (..., T, I) with its steps on `time_axis`, carry (..., H), lengths (...) -> the last carry, y like x.

    As in Flax, what y holds past a row's length is computed from the padding there, and in reverse the padding stays at
    the end. `resets` has x's shape without the features.
    """
    batch, H = carry.shape[:-1], carry.shape[-1]
    dtype = jnp.result_type(x, *w) if dtype is None else jnp.dtype(dtype)
    if carry.dtype != dtype:
        raise TypeError(
            f"carry: expected {dtype}, in which this call is computed, got {carry.dtype}; gru_xp computes in one type: "
            f"leave the cell's dtype out, or make its param_dtype the same"
        )
    if resets is not None and resets.shape != x.shape[:-1]:
        raise ValueError(f"resets: expected {x.shape[:-1]}, as the input without its features, got {resets.shape}")
    if resets is not None and reverse and lengths is not None:
        raise ValueError("resets: expected no seq_lengths beside them where reverse=True, got both; use gru_xp.gru")
    x = _rows(jnp.moveaxis(x, time_axis, 0), batch)
    resets = None if resets is None else _rows(jnp.moveaxis(resets, time_axis, 0)[..., None], batch)[..., 0]
    flipped: Any = None  # the step that is read at each step of a row
    if reverse and lengths is not None:
        flipped = ((lengths.reshape(-1) - 1 - jnp.arange(len(x))[:, None]) % max(len(x), 1))[..., None]
        x = jnp.take_along_axis(x, flipped, axis=0)
    elif reverse:
        spec = gru_xp.GRUSpec.from_dict(spec.as_dict() | {"reverse": True})
    w = gru_xp.CellParams(*(None if a is None else a.astype(dtype) for a in w))
    h0 = carry.reshape(1, -1, H)
    y, h_n = gru_xp.gru(x.astype(dtype), ((w,),), h0, resets=resets, spec=spec)
    if lengths is not None:  # the state of a row is its output, and of one without steps its first carry
        states = jnp.concatenate([h0, y])
        h_n = jnp.take_along_axis(states, lengths.reshape(1, -1, 1), axis=0)
    if flipped is not None and keep_order:
        y = jnp.take_along_axis(y, flipped, axis=0)
    elif reverse and flipped is None and not keep_order:
        y = jnp.flip(y, axis=0)
    return h_n.reshape(carry.shape), jnp.moveaxis(y.reshape(len(y), *batch, H), 0, time_axis)


def _rows(a: Any, batch: tuple[int, ...]) -> Any:
    """(T, ..., K) -> (T, N, K)."""
    return a if len(batch) == 1 else a.reshape(len(a), -1, a.shape[-1])
