"""`gru_xp_flax.linen.RNN` against flax.linen.RNN, over the same variables."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

import gru_xp
from gru_xp_flax.linen import RNN, GRUCell

T, N, I, H = 9, 4, 3, 5
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(N, T, I)), "f4")
LENGTHS = jnp.asarray([4, 9, 1, 7])


def drawn(layer: Any, x: Any = X) -> Any:
    """Variables that are all random; Flax begins with biases of zero."""
    variables = jax.jit(layer.init)(jax.random.key(0), x)
    return jax.tree.map(lambda a: jnp.asarray(RNG.normal(scale=0.5, size=a.shape), a.dtype), variables)


def assert_near(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(np.asarray(a, "f8"), np.asarray(b, "f8"), atol=4e-6, rtol=1e-5)


def of_both(layers: Any, variables: Any, x: Any, **options: Any) -> Any:
    """What each of two layers puts out, and the gradients of a loss of all of it for the variables and x."""

    def loss(variables: Any, x: Any, layer: Any) -> Any:
        out = layer.apply(variables, x, **options)
        weights = [jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in jax.tree.leaves(out)]
        return sum(jnp.sum(a * w) for a, w in zip(jax.tree.leaves(out), weights, strict=True)), out

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    return [gradients(variables, x, layer) for layer in layers]


@pytest.mark.parametrize(("time_major", "lengths"), [(False, None), (True, LENGTHS)], ids=["whole", "ragged"])
@pytest.mark.parametrize("order", ["forward", "reverse", "reverse in order"])
def test_outputs_and_gradients(time_major: bool, lengths: Any, order: str) -> None:
    options = {"reverse": order != "forward", "keep_order": order == "reverse in order", "time_major": time_major}
    layers = [kind(GRUCell(H), return_carry=True, **options) for kind in (RNN, linen.RNN)]
    x = X.swapaxes(0, 1) if time_major else X
    variables = drawn(layers[1], x)
    assert_near(*of_both(layers, variables, x, seq_lengths=lengths))
    called = [kind(GRUCell(H)).apply(variables, x, seq_lengths=lengths, **options) for kind in (RNN, linen.RNN)]
    assert_near(*called)


def test_init_draws_what_flax_draws() -> None:
    """Inside a model too, where layers have names by their classes."""

    class Model(linen.Module):
        kind: Any

        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = self.kind(GRUCell(H))(x)
            return linen.Bidirectional(self.kind(GRUCell(2)), self.kind(GRUCell(3)))(x)

    ours, theirs = (Model(kind).init_with_output(jax.random.key(7), X) for kind in (RNN, linen.RNN))
    assert_near(ours[0], theirs[0])
    jax.tree.map(np.testing.assert_array_equal, ours[1], theirs[1])
    assert jax.tree.structure(ours[1]) == jax.tree.structure(theirs[1])
    assert_near(*of_both([Model(RNN), Model(linen.RNN)], drawn(Model(linen.RNN)), X))


@pytest.mark.parametrize("shape", [(T, I), (2, 3, T, I)])
def test_any_number_of_batch_axes(shape: tuple[int, ...]) -> None:
    layers = [kind(GRUCell(H), return_carry=True) for kind in (RNN, linen.RNN)]
    x, carry = (jnp.asarray(RNG.normal(size=size), "f4") for size in (shape, (*shape[:-2], H)))
    assert_near(*of_both(layers, drawn(layers[1], x), x, initial_carry=carry))


def test_parameters_in_boxes() -> None:
    """As those that say how they are partitioned."""
    cell = GRUCell(H, kernel_init=linen.with_partitioning(linen.initializers.lecun_normal(), (None, None)))
    variables = RNN(cell).init(jax.random.key(0), X)
    assert isinstance(variables["params"]["cell"]["ir"]["kernel"], linen.Partitioned)
    assert_near(RNN(cell).apply(variables, X), linen.RNN(cell).apply(variables, X))


def test_resets_begin_a_sequence() -> None:
    ours, theirs = (kind(GRUCell(H), return_carry=True) for kind in (RNN, linen.RNN))
    variables = drawn(theirs)
    resets = jnp.zeros((N, T), bool).at[:, 4].set(True)
    first, second = (theirs.apply(variables, x) for x in (X[:, :4], X[:, 4:]))
    assert_near(ours.apply(variables, X, resets=resets), (second[0], jnp.concatenate([first[1], second[1]], axis=1)))


def train(kind: type) -> tuple[list[float], Any]:
    """A script as users write it."""

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            return linen.Dense(2)(kind(GRUCell(16), name="rnn")(x)[:, -1])

    model, optimizer = Model(), optax.adam(1e-2)
    x = jax.random.normal(jax.random.key(0), (20, 32, T, I), jnp.float32)
    labels = (x[:, :, 2, 0] + x[:, :, -1, 1] > 0).astype(int)
    params = model.init(jax.random.key(1), x[0])

    def loss(params: Any, x: Any, labels: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), labels).mean()

    @jax.jit
    def step(params: Any, state: Any, x: Any, labels: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params, x, labels)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for batch in zip(x, labels, strict=True):
        params, state, value = step(params, state, *batch)
        losses.append(float(value))
    return losses, params


def test_twenty_steps_of_the_same_script() -> None:
    (ours, our_params), (theirs, their_params) = train(RNN), train(linen.RNN)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert theirs[-1] < theirs[0]
    assert jax.tree.map(jnp.shape, our_params) == jax.tree.map(jnp.shape, their_params)


def test_weights_to_and_from_gru_xp() -> None:
    variables = drawn(RNN(GRUCell(H)))
    model = gru_xp.from_framework(variables)
    y = RNN(GRUCell(H)).apply(variables, X)
    np.testing.assert_allclose(model(np.asarray(X.swapaxes(0, 1)))[0], y.swapaxes(0, 1), atol=4e-6)


def test_what_it_does_not_compute_is_refused() -> None:
    with pytest.raises(TypeError, match=r"cell: expected a flax\.linen\.GRUCell, got a SimpleCell; flax\.linen\.RNN"):
        RNN(linen.SimpleCell(H)).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"gate_fn: expected one of JAX's sigmoid"):
        RNN(GRUCell(H, gate_fn=lambda a: a)).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match=r"variable_axes: expected \{\}, got another value; flax"):
        RNN(GRUCell(H), variable_axes={"params": 0}).init(jax.random.key(0), X)
    layer = RNN(GRUCell(H, dtype=jnp.bfloat16))
    with pytest.raises(TypeError, match="carry: expected bfloat16"):
        layer.init(jax.random.key(0), X)
