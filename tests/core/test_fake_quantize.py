"""`fake_quantize`: the numbers of `quantize` in every library, compiled or not, and the gradient that passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gru_xp
from gru_xp import errors

WEIGHTS = ["int8", "bfloat16", "float16"]


def parameters() -> Any:
    """With a row of zeros, a row that is nearly zero, halves, -0.0 and what float16 has as a subnormal number."""
    params = gru_xp.GRU(70, 50, num_layers=2, bidirectional=True, seed=0).params
    W = np.array(params[0][0].W_ih)
    W[3], W[4], W[5, :3], W[6] = 0.0, 1e-38, (-0.0, 1e-6, -3e-8), np.arange(70) - 35 + np.float32(0.5)
    W[6, 0] = -127
    first = params[0][0]._replace(W_ih=W)
    return ((first, params[0][1]), params[1])


def stored(weights: str) -> list[Any]:
    return gru_xp.weights(gru_xp.quantize(parameters(), weights).params)


def assert_same_bits(got: Any, weights: str) -> None:
    for ours, theirs in zip(stored(weights), gru_xp.weights(got), strict=True):
        np.testing.assert_array_equal(np.asarray(theirs).view("u4"), ours.view("u4"))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_numpy(weights: str) -> None:
    before = [a.copy() for a in gru_xp.weights(parameters())]
    assert_same_bits(gru_xp.fake_quantize(parameters(), weights), weights)
    for a, b in zip(before, gru_xp.weights(parameters()), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_torch(weights: str, compiled: bool) -> None:
    torch = pytest.importorskip("torch")
    params = gru_xp.map_params(lambda a: torch.tensor(a, requires_grad=True), parameters())
    function = torch.compile(gru_xp.fake_quantize, backend="aot_eager") if compiled else gru_xp.fake_quantize
    got = function(params, weights)
    assert_same_bits(gru_xp.map_params(lambda a: a.detach(), got), weights)
    arrived = [torch.randn_like(a) for a in gru_xp.weights(got)]
    gradients = torch.autograd.grad(gru_xp.weights(got), gru_xp.weights(params), arrived)
    for ours, theirs in zip(arrived, gradients, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("weights", WEIGHTS)
def test_jax(weights: str, compiled: bool) -> None:
    jax = pytest.importorskip("jax")
    params = gru_xp.map_params(jax.numpy.asarray, parameters())

    def function(params: Any) -> Any:
        return gru_xp.fake_quantize(params, weights)

    function = jax.jit(function) if compiled else function
    got, back = jax.vjp(function, params)
    assert_same_bits(got, weights)
    arrived = gru_xp.map_params(lambda a: jax.random.normal(jax.random.key(a.size), a.shape, a.dtype), params)
    for ours, theirs in zip(gru_xp.weights(arrived), gru_xp.weights(back(arrived)[0]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    _, forwards = jax.jvp(function, (params,), (arrived,))
    for ours, theirs in zip(gru_xp.weights(arrived), gru_xp.weights(forwards), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_gradient_of_a_model_is_that_at_the_rounded_weights(weights: str) -> None:
    """In both libraries, against the explicit backward at what `quantize` gives."""
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    x = np.random.default_rng(1).standard_normal((6, 3, 70), dtype=np.float32)
    rounded = gru_xp.quantize(parameters(), weights).params
    y, _, tape = gru_xp.gru_forward(x, rounded)
    expected = gru_xp.weights(gru_xp.gru_backward(tape, np.cos(y)).params)

    params = gru_xp.map_params(lambda a: torch.tensor(a, requires_grad=True), parameters())
    gru_xp.gru(torch.tensor(x), gru_xp.fake_quantize(params, weights))[0].sin().sum().backward()
    in_torch = [a.grad.numpy() for a in gru_xp.weights(params)]

    def loss(params: Any) -> Any:
        return jax.numpy.sin(gru_xp.gru(jax.numpy.asarray(x), gru_xp.fake_quantize(params, weights))[0]).sum()

    in_jax = gru_xp.weights(jax.jit(jax.grad(loss))(gru_xp.map_params(jax.numpy.asarray, parameters())))
    for ours, *theirs in zip(expected, in_torch, in_jax, strict=True):
        for each in theirs:
            np.testing.assert_allclose(each, ours, atol=2e-4)


def test_a_second_derivative_passes_through_too() -> None:
    torch = pytest.importorskip("torch")
    params = gru_xp.map_params(lambda a: torch.tensor(a, requires_grad=True), gru_xp.GRU(3, 4, seed=0).params)
    W = gru_xp.fake_quantize(params)[0][0].W_hh
    (first,) = torch.autograd.grad((W**3).sum(), params[0][0].W_hh, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), params[0][0].W_hh)
    torch.testing.assert_close(second, 6 * W.detach())


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # PyTorch's own use of it in jvp
def test_transforms_of_torch() -> None:
    torch = pytest.importorskip("torch")
    from torch.func import grad, jvp, vmap

    W = torch.from_numpy(np.random.default_rng(0).standard_normal((5, 12, 4), dtype=np.float32))

    def rounded(W: Any) -> Any:
        return gru_xp.fake_quantize(((gru_xp.CellParams(W, W),),))[0][0].W_hh

    many = vmap(rounded)(W)
    for ours, theirs in zip(W, many, strict=True):
        assert torch.equal(rounded(ours), theirs)
    assert torch.equal(vmap(grad(lambda W: (rounded(W) ** 2).sum()))(W), 2 * many)
    value, tangent = jvp(rounded, (W[0],), (W[1],))
    assert torch.equal(value, many[0]) and torch.equal(tangent, W[1])


def test_what_it_does_not_take() -> None:
    params = gru_xp.GRU(3, 4, dtype="float64", seed=0).params
    with pytest.raises(errors.DTypeError, match=r"params\[0\]\[0\].W_ih: expected float32, .* got float64"):
        gru_xp.fake_quantize(params)
    with pytest.raises(errors.StructureError, match="weights: expected one of 'int8', 'bfloat16', 'float16'"):
        gru_xp.fake_quantize(gru_xp.GRU(3, 4).params, "int4")
    with pytest.raises(errors.GRUError, match="params"):
        gru_xp.fake_quantize(gru_xp.GRU(3, 4))
