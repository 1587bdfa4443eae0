"""Models and parameters are JAX pytrees: transforms, optimisers and tree functions take them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import random_params
from subprocesses import on_two_devices

import gru_xp
import gru_xp_jax

assert gru_xp_jax  # which makes them pytrees

rng = np.random.default_rng(0)
X = rng.standard_normal((7, 4, 3)).astype("float32")
PARAMS = gru_xp.map_params(lambda a: a.astype("float32"), random_params(rng, 3, 5))


def loss(model: gru_xp.GRU, x: jax.Array) -> jax.Array:
    return (model(x)[0] ** 2).sum()


def expected() -> gru_xp.GRUGrads:
    """By the explicit backward in float64."""
    params = gru_xp.map_params(lambda a: a.astype("float64"), PARAMS)
    y, _, tape = gru_xp.gru_forward(X.astype("float64"), params)
    return gru_xp.gru_backward(tape, 2 * y)


@pytest.mark.parametrize("made_by", [np.asarray, jnp.asarray], ids=["NumPy", "JAX"])
@pytest.mark.parametrize("jit", [False, True])
def test_the_gradient_of_a_model_is_a_model_of_gradients(made_by, jit) -> None:
    model = gru_xp.GRU.from_params(gru_xp.map_params(made_by, PARAMS))
    gradient = jax.jit(jax.grad(loss)) if jit else jax.grad(loss)
    for _ in range(2):
        got = gradient(model, jnp.asarray(X))
        assert type(got) is gru_xp.GRU
        for a, b in zip(gru_xp.weights(got.params), gru_xp.weights(expected().params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model(X)[0], gru_xp.gru(X, PARAMS)[0])  # and the model is as it was


def test_prepared_parameters_are_differentiated() -> None:
    prepared = gru_xp.prepare(gru_xp.map_params(jnp.asarray, PARAMS))
    got = jax.grad(lambda p: (gru_xp.gru(jnp.asarray(X), p)[0] ** 2).sum())(prepared)
    for a, b in zip(gru_xp.weights(got.params), gru_xp.weights(expected().params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_optax_trains_a_model() -> None:
    model = gru_xp.GRU(3, 5, seed=0, backend="jax")
    optimizer = optax.sgd(1e-2)
    state = optimizer.init(model)
    before = loss(model, jnp.asarray(X))
    for _ in range(5):
        updates, state = optimizer.update(jax.grad(loss)(model, jnp.asarray(X)), state)
        model = optax.apply_updates(model, updates)
    assert loss(model, jnp.asarray(X)) < before


def test_trees_of_placeholders_and_structures() -> None:
    model = gru_xp.GRU(3, 5, batch_first=True, seed=0)
    leaves, structure = jax.tree.flatten(model)
    assert [leaf.shape for leaf in leaves] == [(15, 3), (15, 5), (15,), (15,)]
    assert jax.tree.structure(jax.tree.unflatten(structure, [object()] * 4)) == structure
    again = jax.tree.unflatten(structure, leaves)
    assert again.batch_first
    np.testing.assert_array_equal(again(X.swapaxes(0, 1))[0], model(X.swapaxes(0, 1))[0])
    prepared = gru_xp.prepare(PARAMS)
    leaves, structure = jax.tree.flatten(prepared)
    jax.tree.unflatten(structure, [None] * 4)
    np.testing.assert_array_equal(gru_xp.gru(X, jax.tree.unflatten(structure, leaves))[0], gru_xp.gru(X, PARAMS)[0])


def test_gradients_are_summed_by_add() -> None:
    gradient = jax.grad(loss)(gru_xp.GRU.from_params(gru_xp.map_params(jnp.asarray, PARAMS)), jnp.asarray(X))
    twice = gru_xp.add(gradient.params, gradient.params)
    np.testing.assert_allclose(twice[0][0].W_hh, 2 * np.asarray(gradient.params[0][0].W_hh))


def test_variables_of_flax_are_taken_as_the_arrays_that_they_hold() -> None:
    params = gru_xp.map_params(lambda a: nnx.Param(jnp.asarray(a)), PARAMS)
    wanted = gru_xp.gru(jnp.asarray(X), gru_xp.map_params(jnp.asarray, PARAMS))[0]
    np.testing.assert_array_equal(gru_xp.gru(jnp.asarray(X), params)[0], wanted)

    def summed(params: gru_xp.Params) -> jax.Array:
        return (gru_xp.gru(jnp.asarray(X), params)[0] ** 2).sum()

    got = jax.grad(summed)(params)
    np.testing.assert_allclose(got[0][0].W_hh[...], expected().params[0][0].W_hh, rtol=1e-4, atol=1e-4)


def test_a_sharded_array_is_kept_sharded_or_refused() -> None:
    code = """
        import jax, numpy as np, gru_xp
        mesh = jax.make_mesh((2,), ("b",))
        x = jax.device_put(np.ones((7, 4, 3), "float32"), jax.NamedSharding(mesh, jax.P(None, "b", None)))
        model = gru_xp.GRU(3, 5)
        print(model(x)[0].sharding.is_equivalent_to(x.sharding, 3))
        try:
            model(x, backend="numpy")
        except gru_xp.GRUError as error:
            print(error)
    """
    kept, refusal = on_two_devices(code)
    assert kept == "True"
    assert refusal.startswith("x: is sharded over 2 devices")


def test_a_quantised_model_is_closed_over() -> None:
    narrow = gru_xp.quantize(gru_xp.GRU(3, 5, backend="jax"))
    with pytest.raises(gru_xp.errors.StructureError, match="quantised ones; close over them"):
        jax.jit(lambda model, x: model(x)[0])(narrow, jnp.asarray(X))
    assert jax.jit(lambda x: narrow(x)[0])(jnp.asarray(X)).shape == (7, 4, 5)
