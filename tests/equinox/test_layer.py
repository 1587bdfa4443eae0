"""`gru_xp_equinox.RNN` against `jax.lax.scan` over the same cell, which is how Equinox's users run it."""

from __future__ import annotations

from typing import Any

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gru_xp
from gru_xp_equinox import RNN

T, N, I, H = 9, 4, 3, 5
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(N, T, I)), "f4")
HIDDEN = jnp.asarray(RNG.normal(size=(N, H)), "f4")


class Scan(equinox.Module):
    """What RNN replaces."""

    cell: equinox.nn.GRUCell

    def __call__(self, xs: Any, hidden: Any = None, *, reverse: bool = False) -> Any:
        hidden = jnp.zeros(H, jnp.float32) if hidden is None else hidden
        return jax.lax.scan(lambda h, x: (self.cell(x, h),) * 2, hidden, xs, reverse=reverse)


def drawn(use_bias: bool = True, dtype: Any = jnp.float32) -> Any:
    return equinox.nn.GRUCell(I, H, use_bias, dtype, key=jax.random.key(0))


def assert_near(got: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, atol=4e-6, rtol=1e-5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_outputs_and_gradients(use_bias: bool, reverse: bool, batched: bool) -> None:
    """With a batch by `jax.vmap`, as in Equinox; all of what flows into x and the cell."""
    cell = drawn(use_bias)
    x, hidden = (X, HIDDEN) if batched else (X[0], HIDDEN[0])

    def loss(arguments: Any) -> Any:
        layer, x, hidden = arguments
        run = (
            jax.vmap(lambda x, h: layer(x, h, reverse=reverse))
            if batched
            else lambda x, h: layer(x, h, reverse=reverse)
        )
        out = run(x, hidden)
        return sum(jnp.sum(a * jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape)) for a in out), out

    found = [
        equinox.filter_jit(equinox.filter_value_and_grad(loss, has_aux=True))((kind(cell), x, hidden))
        for kind in (RNN, Scan)
    ]
    assert_near(*found)


def test_steps_first_is_a_batch_without_vmap() -> None:
    layer = RNN(drawn())
    carry, y = layer(X.swapaxes(0, 1), HIDDEN)
    each = jax.vmap(Scan(layer.cell))(X, HIDDEN)
    assert_near((carry, y.swapaxes(0, 1)), each)


@pytest.mark.parametrize("x", ["i4", "f8"])
def test_types(x: str) -> None:
    cell, data = drawn(), (4 * X[0]).astype(x)
    hidden = jnp.zeros(H, jnp.result_type(data, cell.weight_ih))
    assert_near(RNN(cell)(data, hidden), Scan(cell)(data, hidden))


def test_lengths_and_resets() -> None:
    layer, lengths = RNN(drawn()), [4, 9, 1, 7]
    x = X.swapaxes(0, 1)
    carry, y = layer(x, HIDDEN, lengths=jnp.asarray(lengths))
    for n, length in enumerate(lengths):
        last, states = Scan(layer.cell)(X[n, :length], HIDDEN[n])
        assert_near((carry[n], y[:length, n]), (last, states))
        assert not y[length:, n].any()
    resets = jnp.zeros(T, bool).at[4].set(True)
    first, second = (Scan(layer.cell)(part) for part in (X[0, :4], X[0, 4:]))
    assert_near(layer(X[0], resets=resets), (second[0], jnp.concatenate([first[1], second[1]])))


def train(kind: type) -> tuple[list[float], Any]:
    """A script as users write it."""

    class Model(equinox.Module):
        rnn: Any
        linear: equinox.nn.Linear

        def __call__(self, x: Any) -> Any:
            return self.linear(self.rnn(x, jnp.zeros(16, jnp.float32))[0])

    keys = jax.random.split(jax.random.key(0), 3)
    cell = equinox.nn.GRUCell(I, 16, dtype=jnp.float32, key=keys[0])
    model = Model(kind(cell), equinox.nn.Linear(16, 2, dtype=jnp.float32, key=keys[1]))
    x = jax.random.normal(keys[2], (20, 32, T, I), jnp.float32)
    labels = (x[:, :, 2, 0] + x[:, :, -1, 1] > 0).astype(int)
    optimizer = optax.adam(1e-2)
    state = optimizer.init(equinox.filter(model, equinox.is_inexact_array))

    @equinox.filter_value_and_grad
    def loss(model: Any, x: Any, labels: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), labels).mean()

    @equinox.filter_jit
    def step(model: Any, state: Any, x: Any, labels: Any) -> Any:
        value, grads = loss(model, x, labels)
        updates, state = optimizer.update(grads, state)
        return equinox.apply_updates(model, updates), state, value

    losses = []
    for batch in zip(x, labels, strict=True):
        model, state, value = step(model, state, *batch)
        losses.append(float(value))
    return losses, model


def test_twenty_steps_of_the_same_script() -> None:
    (ours, model), (theirs, other) = train(RNN), train(Scan)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert theirs[-1] < theirs[0]
    assert [a.shape for a in jax.tree.leaves(model)] == [a.shape for a in jax.tree.leaves(other)]
    assert type(model.rnn.cell) is equinox.nn.GRUCell


def test_weights_to_and_from_gru_xp() -> None:
    layer = RNN(drawn())
    model = gru_xp.from_framework(layer)
    np.testing.assert_allclose(model(np.asarray(X[0]))[0], layer(X[0])[1], atol=4e-6)


def test_other_cells_are_refused() -> None:
    with pytest.raises(TypeError, match=r"cell: expected an equinox.nn.GRUCell, got a LSTMCell; jax.lax.scan runs any"):
        RNN(equinox.nn.LSTMCell(I, H, key=jax.random.key(0)))
