"""Quantised weights inside JAX's transforms: constants of what is traced, whose roundings have no derivative."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gru_xp
from gru_xp import errors

KINDS = [("int8", "float32"), ("int8", "int8"), ("float16", "float32")]
X = np.random.default_rng(2).normal(size=(9, 3, 24)).astype("f4")


def made(kind: Any, library: str = "jax") -> tuple[Any, np.ndarray]:
    """A model that nobody has called yet, and what another one gave for X on NumPy."""
    whole = gru_xp.GRU(24, 40, num_layers=2, seed=1)
    right = gru_xp.quantize(whole, *kind)(X)[0]
    if library == "numpy":
        return gru_xp.quantize(whole, *kind), right
    params = gru_xp.quantize(gru_xp.map_params(jnp.asarray, whole.params), *kind)
    return gru_xp.GRU.from_params(params), right


def assert_near(got: Any, right: np.ndarray, kind: Any) -> None:
    """A rounding that is decided otherwise moves a sum by a step of one weight."""
    np.testing.assert_allclose(got, right, atol=1e-3 if kind[1] == "int8" else 1e-6)


@pytest.mark.parametrize("library", ["jax", "numpy"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_call_may_be_traced(kind: Any, library: str) -> None:
    """What is packed then is kept for later calls, so it must not belong to the trace."""
    model, right = made(kind, library)
    for call in (jax.jit(lambda x: model(x, backend="auto")[0]), jax.jit(lambda x: 1 * model(x, backend="auto")[0])):
        assert_near(call(jnp.asarray(X)), right, kind)
    assert_near(model(jnp.asarray(X), backend="auto")[0], right, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_vmap_and_a_scan_of_steps(kind: Any) -> None:
    model, right = made(kind)
    x = jnp.asarray(X)
    for y in jax.vmap(lambda x: model(x)[0])(jnp.stack([x, x])):
        assert_near(y, right, kind)
    _, y = jax.lax.scan(lambda state, x_t: model.step(x_t, state)[::-1], model.initial_state(3), x)
    assert_near(y, right, kind)


@pytest.mark.parametrize("function", [gru_xp.gru, gru_xp.gru_inference])
@pytest.mark.parametrize("kind", [None, *KINDS])
def test_prepared_parameters_may_be_closed_over(kind: Any, function: Any) -> None:
    params = gru_xp.map_params(jnp.asarray, gru_xp.GRU(24, 40, num_layers=2, seed=1).params)
    prepared: Any = gru_xp.prepare(params) if kind is None else gru_xp.quantize(params, *kind)
    got = jax.jit(lambda x: function(x, prepared)[0])(jnp.asarray(X))
    assert_near(got, np.asarray(function(jnp.asarray(X), prepared)[0]), kind or (None, None))


@pytest.mark.parametrize("transform", [jax.grad, lambda f: jax.jit(jax.grad(f)), lambda f: jax.grad(jax.jit(f))])
def test_int8_activations_have_no_derivative(transform: Any) -> None:
    """Of `gru_inference` neither, which JAX would differentiate, rounding and all, into something else."""
    model, _ = made(("int8", "int8"))
    params = gru_xp.quantize(gru_xp.map_params(jnp.asarray, gru_xp.GRU(24, 40, seed=1).params), activations="int8")
    x = jnp.asarray(X)
    for f in (lambda x: model(x)[0].sum(), lambda x: gru_xp.gru_inference(x, params)[0].sum()):
        with pytest.raises(errors.NotDifferentiableError, match="int8 activations, which have none"):
            transform(f)(x)
        with pytest.raises(errors.NotDifferentiableError, match="int8 activations, which have none"):
            jax.jvp(f, (x,), (x,))
        stopped = transform(lambda x: (x[..., :1] * f(jax.lax.stop_gradient(x))).sum())(x)  # noqa: B023
        np.testing.assert_allclose(stopped[..., 0], f(x), rtol=1e-4)


def test_float_activations_have_one() -> None:
    model, _ = made(("int8", "float32"))
    plain = gru_xp.GRU.from_params(model.params)
    got, right = (jax.jit(jax.grad(lambda x: jnp.sin(m(x)[0]).sum()))(jnp.asarray(X)) for m in (model, plain))  # noqa: B023
    np.testing.assert_allclose(got, right, atol=1e-6)


def test_traced_weights_are_not_quantised() -> None:
    params = gru_xp.map_params(jnp.asarray, gru_xp.GRU(3, 4, seed=1).params)
    with pytest.raises(errors.NotDifferentiableError, match=r"weights that are not traced.*fake_quantize\(params\)"):
        jax.jit(lambda params: gru_xp.quantize(params).params)(params)


@pytest.mark.parametrize("name", ["to_linen", "to_equinox"])
def test_cells_of_others_do_not_round_activations(name: str) -> None:
    pytest.importorskip({"to_linen": "flax", "to_equinox": "equinox"}[name])
    import gru_xp_jax

    assert getattr(gru_xp_jax, name)(made(("int8", "float32"))[0])
    with pytest.raises(errors.ConversionError, match="int8 activations: .* does not round x and the state"):
        getattr(gru_xp_jax, name)(made(("int8", "int8"))[0])
