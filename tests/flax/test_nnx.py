"""`gru_xp_flax.nnx.RNN` against flax.nnx.RNN, over the same cells."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gru_xp
from gru_xp_flax.nnx import RNN, GRUCell

T, N, I, H = 9, 4, 3, 5
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(N, T, I)), "f4")
LENGTHS = jnp.asarray([4, 9, 1, 7])


def drawn(**options: Any) -> Any:
    """A cell whose parameters are all random; Flax begins with biases of zero."""
    cell = GRUCell(I, H, rngs=nnx.Rngs(0), **options)
    state = jax.tree.map(
        lambda a: jnp.asarray(RNG.normal(scale=0.5, size=a.shape), a.dtype), nnx.state(cell, nnx.Param)
    )
    nnx.update(cell, state)
    return cell


def assert_near(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(np.asarray(a, "f8"), np.asarray(b, "f8"), atol=4e-6, rtol=1e-5)


def of_both(layers: Any, x: Any, **options: Any) -> Any:
    """What each of two layers puts out, and the gradients of a loss of all of it for its parameters and x."""

    @nnx.jit
    @functools.partial(nnx.grad, argnums=(0, 1), has_aux=True)
    def gradients(layer: Any, x: Any) -> Any:
        out = layer(x, **options)
        weights = [jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in jax.tree.leaves(out)]
        return sum(jnp.sum(a * w) for a, w in zip(jax.tree.leaves(out), weights, strict=True)), out

    found = [gradients(layer, x) for layer in layers]
    return [(out, nnx.to_pure_dict(grads[0]), grads[1]) for grads, out in found]


@pytest.mark.parametrize(("time_major", "lengths"), [(False, None), (True, LENGTHS)], ids=["whole", "ragged"])
@pytest.mark.parametrize("order", ["forward", "reverse", "reverse in order"])
def test_outputs_and_gradients(time_major: bool, lengths: Any, order: str) -> None:
    """In the padding too, where Flax computes on; options of the layer, and of the call."""
    options = {"reverse": order != "forward", "keep_order": order == "reverse in order", "time_major": time_major}
    cell = drawn()
    x = X.swapaxes(0, 1) if time_major else X
    layers = [kind(cell, return_carry=True, **options) for kind in (RNN, nnx.RNN)]
    assert_near(*of_both(layers, x, seq_lengths=lengths))
    assert_near(*(kind(cell)(x, seq_lengths=lengths, **options) for kind in (RNN, nnx.RNN)))


@pytest.mark.parametrize("shape", [(T, I), (2, 3, T, I), (N, 1, I)])
def test_any_number_of_batch_axes(shape: tuple[int, ...]) -> None:
    cell, x = drawn(), jnp.asarray(RNG.normal(size=shape), "f4")
    carry = jnp.asarray(RNG.normal(size=(*shape[:-2], H)), "f4")
    options = {"initial_carry": carry, "return_carry": True}
    assert_near(*of_both([RNN(cell), nnx.RNN(cell)], x, **options))
    major = jnp.moveaxis(x, -2, 0)
    assert_near(*of_both([RNN(cell), nnx.RNN(cell)], major, time_major=True, **options))


def test_two_directions() -> None:
    cells = [drawn(), drawn()]
    layers = [nnx.Bidirectional(*(kind(cell) for cell in cells)) for kind in (RNN, nnx.RNN)]
    assert_near(*of_both(layers, X, seq_lengths=LENGTHS, return_carry=True))


@pytest.mark.parametrize("functions", [(jax.nn.hard_sigmoid, jnp.tanh), (jax.nn.sigmoid, jax.nn.relu)])
def test_other_activations(functions: Any) -> None:
    cell = drawn(gate_fn=functions[0], activation_fn=functions[1])
    assert_near(*of_both([RNN(cell), nnx.RNN(cell)], X))


@pytest.mark.parametrize(
    ("x", "options"), [("f8", {}), ("i4", {}), ("f8", {"param_dtype": jnp.float64}), ("f8", {"dtype": jnp.float32})]
)
def test_types(x: str, options: dict[str, Any]) -> None:
    cell, data = drawn(**options), (4 * X).astype(x)
    carry = jnp.zeros((N, H), jnp.result_type(data, cell.param_dtype) if "dtype" not in options else "f4")
    assert_near(*(kind(cell)(data, initial_carry=carry) for kind in (RNN, nnx.RNN)))


def test_a_carry_of_another_type_is_refused() -> None:
    """Flax's state is in float32 there, and its products in bfloat16."""
    with pytest.raises(TypeError, match="carry: expected bfloat16, .* got float32; .*leave the cell's dtype out"):
        RNN(drawn(dtype=jnp.bfloat16))(X)


def test_a_row_without_steps_keeps_its_carry() -> None:
    carry = jnp.asarray(RNG.normal(size=(N, H)), "f4")
    lengths = jnp.asarray([0, 3, 0, 9])
    got, _ = RNN(drawn())(X, initial_carry=carry, seq_lengths=lengths, return_carry=True)
    np.testing.assert_array_equal(got[::2], carry[::2])


@pytest.mark.parametrize("reverse", [False, True])
def test_resets_begin_a_sequence(reverse: bool) -> None:
    layer = RNN(drawn(), return_carry=True, reverse=reverse, keep_order=True)
    resets = jnp.zeros((N, T), bool).at[:, 4].set(True)
    carry, y = layer(X, resets=resets)
    parts = [nnx.RNN(layer.cell, return_carry=True, reverse=reverse, keep_order=True)(x) for x in (X[:, :4], X[:, 4:])]
    assert_near((carry, y), (parts[not reverse][0], jnp.concatenate([part[1] for part in parts], axis=1)))


def train(kind: type) -> tuple[list[float], Any]:
    """A script as users write it."""
    rngs = nnx.Rngs(0)

    class Model(nnx.Module):
        def __init__(self) -> None:
            self.rnn = kind(GRUCell(I, 16, rngs=rngs))
            self.linear = nnx.Linear(16, 2, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.linear(self.rnn(x)[:, -1])

    model = Model()
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
    key = jax.random.key(0)
    x = jax.random.normal(key, (20, 32, T, I), jnp.float32)
    labels = (x[:, :, 2, 0] + x[:, :, -1, 1] > 0).astype(int)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any, labels: Any) -> Any:
        def loss(model: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    losses = [float(step(model, optimizer, *batch)) for batch in zip(x, labels, strict=True)]
    return losses, nnx.to_pure_dict(nnx.state(model))


def test_twenty_steps_of_the_same_script() -> None:
    (ours, our_state), (theirs, their_state) = train(RNN), train(nnx.RNN)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert theirs[-1] < theirs[0]
    shapes = [jax.tree.map(lambda a: (a.shape, a.dtype), state) for state in (our_state, their_state)]
    assert shapes[0] == shapes[1]


def test_weights_to_and_from_gru_xp() -> None:
    cell = drawn()
    layer = RNN(cell, reverse=True, keep_order=True)
    model = gru_xp.from_framework(layer)
    assert model.batch_first and model.spec.reverse
    np.testing.assert_allclose(model(np.asarray(X))[0], layer(X), atol=4e-6)
    both = nnx.Bidirectional(RNN(cell), RNN(drawn()))
    np.testing.assert_allclose(gru_xp.from_framework(both)(np.asarray(X))[0], both(X), atol=4e-6)


def test_what_it_does_not_compute_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"cell: expected a flax\.nnx\.GRUCell, got a LSTMCell; flax\.nnx\.RNN runs any"
    ):
        RNN(nnx.LSTMCell(I, H, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"activation_fn: expected one of JAX's sigmoid, .*flax\.nnx\.RNN runs any"):
        RNN(drawn(activation_fn=lambda a: a))
    with pytest.raises(ValueError, match="promote_dtype: expected Flax's own"):
        RNN(drawn(promote_dtype=lambda arrays, **_: arrays))
    layer = RNN(drawn())
    layer.cell.dense_h = nnx.LoRALinear(H, 3 * H, lora_rank=2, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"cell\.dense_h: expected a flax\.nnx\.Linear, got a LoRALinear"):
        layer(X)
    with pytest.raises(ValueError, match=r"resets: expected \(4, 9\), .* got \(9, 4\)"):
        RNN(drawn())(X, resets=jnp.zeros((T, N), bool))
    with pytest.raises(ValueError, match="resets: expected no seq_lengths beside them where reverse=True"):
        RNN(drawn())(X, resets=jnp.zeros((N, T), bool), seq_lengths=LENGTHS, reverse=True)


def test_a_cell_of_ones_own_that_computes_the_same() -> None:
    class Named(GRUCell):
        pass

    cell = Named(I, H, rngs=nnx.Rngs(0))
    assert_near(RNN(cell)(X), nnx.RNN(cell)(X))
