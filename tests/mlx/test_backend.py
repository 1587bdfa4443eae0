"""MLX's arrays, compiled, differentiated and mapped by MLX; the conformance suite judges the numbers of plain calls."""

from __future__ import annotations

from shutil import which
from typing import Any

import numpy as np
import pytest
from libraries import Library

import gru_xp
from gru_xp import errors

mx = Library("mlx.core")

RNG = np.random.default_rng(0)
MODEL = gru_xp.GRU(3, 5, bidirectional=True, seed=0)  # small, since MLX has each part that it fuses compiled by g++
X = RNG.standard_normal((3, 4, 3)).astype("f4")
LENGTHS = [3, 2, 0, 1]
compiling = pytest.mark.skipif(which("g++") is None, reason="MLX compiles by g++")


def close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), want, rtol=1e-5, atol=1e-5)


def loss(params: Any, x: Any, **options: Any) -> Any:
    y, h_n = gru_xp.gru(x, params, lengths=LENGTHS, **options)
    return (y**2).sum() + h_n.sum()


def gradients() -> list[Any]:
    """Those of the loss, by the explicit backward pass in float64 on NumPy."""
    params = gru_xp.map_params(lambda a: a.astype("f8"), MODEL.params)
    y, h_n, tape = gru_xp.gru_forward(X.astype("f8"), params, lengths=LENGTHS)
    found = gru_xp.gru_backward(tape, 2 * y, np.ones_like(h_n))
    return [found.x, *gru_xp.weights(found.params)]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=compiling)])
def test_gradients_are_those_of_the_explicit_backward_pass(compiled: bool) -> None:
    x = mx.array(X)
    function = mx.grad(loss, argnums=(0, 1))
    params, dx = (mx.compile(function) if compiled else function)(gru_xp.to(MODEL.params, like=x), x)
    for got, want in zip([dx, *gru_xp.weights(params)], gradients(), strict=True):
        close(got, want)


@compiling
def test_the_explicit_backward_pass_compiled() -> None:
    x = mx.array(X)

    def backward(params: Any, x: Any) -> Any:
        y, h_n, tape = gru_xp.gru_forward(x, params, lengths=LENGTHS)
        found = gru_xp.gru_backward(tape, 2 * y, mx.ones_like(h_n))
        return [found.x, *gru_xp.weights(found.params)]

    for got, want in zip(mx.compile(backward)(gru_xp.to(MODEL.params, like=x), x), gradients(), strict=True):
        close(got, want)


@compiling
def test_compiled_and_mapped_calls_of_a_model() -> None:
    want = MODEL(X, lengths=LENGTHS)[0]
    x, lengths = mx.array(X), mx.array(LENGTHS)
    close(mx.compile(lambda x: MODEL(x, lengths=LENGTHS)[0])(x), want)
    close(mx.compile(lambda x, lengths: MODEL(x, lengths=lengths)[0])(x, lengths), want)
    close(
        mx.vmap(lambda x, n: MODEL(x, lengths=n[None])[0], in_axes=(2, 0), out_axes=2)(x[:, None], lengths),
        want[:, None],
    )


@compiling
def test_steps_of_a_stream_compiled() -> None:
    model = gru_xp.GRU(3, 5, num_layers=2, seed=0)
    step, state, ys = mx.compile(model.step), model.initial_state(4, like=mx.array(X)), []
    for t in range(len(X)):
        y, state = step(mx.array(X[t]), state)
        ys.append(np.asarray(y))
    close(np.stack(ys), model(X)[0])


@pytest.mark.parametrize("how", [pytest.param("compile", marks=compiling), "vmap", "grad"])
def test_what_mlx_transforms_is_not_taken_elsewhere(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient would be lost without a word."""
    reason = "is differentiated" if how == "grad" else "is traced"
    message = rf"^x: {reason} \(by .*from mlx to numpy.*compute where it is \(backend='auto'\)"
    monkeypatch.setenv("GRU_XP_BACKEND", "numpy")
    with pytest.raises(errors.NotDifferentiableError, match=message):
        getattr(mx, how)(lambda x: MODEL(x)[0].sum())(mx.array(X))
    mx.eval(getattr(mx, how)(lambda x: MODEL(x, backend="auto")[0].sum())(mx.array(X)))  # as the message says


def test_gradients_that_do_not_flow_through_a_call_do_not_matter() -> None:
    """As constants of a function that is differentiated, and where gru_inference says that none is wanted."""
    x, want = mx.array(X), MODEL(X)[0]

    def function(scale: Any) -> Any:
        return (scale * MODEL(x, backend="numpy")[0]).sum()

    close(mx.grad(function)(mx.array(2.0)), want.sum())
    params = gru_xp.to(MODEL.params, like=x)
    found = mx.grad(lambda x: gru_xp.gru_inference(x, params, backend="numpy")[0].sum() + x.sum())(x)
    close(found, np.ones_like(X))


@pytest.mark.parametrize("backend", ["numpy", "torch", "mlx"])
def test_what_is_selected_computes(backend: str) -> None:
    close(MODEL(mx.array(X)[:, ::-1], backend=backend)[0], MODEL(X[:, ::-1])[0])
    close(MODEL(X, backend=backend)[0], MODEL(X)[0])
