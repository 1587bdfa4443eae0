"""`GRU.step` with `out=`: the same numbers, no memory, any thread."""

from __future__ import annotations

import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES, to_library, to_numpy
from libraries import jnp

import gru_xp
from gru_xp import errors

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3, 4)).astype("f4")


@pytest.mark.parametrize("library", sorted({*LIBRARIES} - {"jax"}))
@pytest.mark.parametrize("policy", ["auto", "off"])
@pytest.mark.parametrize("in_place", [False, True])
def test_out_holds_what_step_returns(
    library: str, policy: str, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRU_XP_KERNELS", policy)
    model = gru_xp.GRU(4, 5, num_layers=2, seed=0, backend=library)
    whole, h_n = model(to_library(library, X))
    state = model.initial_state(3)
    for x_t, expected in zip(X, to_numpy(whole), strict=True):
        y = to_library(library, np.full((3, 5), np.nan, "f4"))
        following = state if in_place else to_library(library, np.full((2, 3, 5), np.nan, "f4"))
        got = model.step(to_library(library, x_t), state, out=(y, following))
        assert got[0] is y and got[1] is following
        np.testing.assert_allclose(to_numpy(y), expected, atol=1e-6)
        state = following
    np.testing.assert_allclose(to_numpy(state), to_numpy(h_n), atol=1e-6)


def test_out_without_a_batch_and_with_a_reset() -> None:
    model = gru_xp.GRU(4, 5, seed=0)
    y, state = np.zeros(5, "f4"), RNG.normal(size=(1, 5)).astype("f4")
    for reset in (False, True):
        expected = model.step(X[0, 0], state, reset=reset)
        model.step(X[0, 0], state, reset=reset, out=(y, state))
        np.testing.assert_array_equal(y, expected[0])
        np.testing.assert_array_equal(state, expected[1])


def test_a_wrong_out_is_refused_before_anything_is_written() -> None:
    model = gru_xp.GRU(4, 5, seed=0)
    x, y, state = X[0], np.zeros((3, 5), "f4"), np.zeros((1, 3, 5), "f4")
    for _ in range(2):  # and after a right call, when a step of this kind is known
        for out, error, message in (
            (y, errors.StructureError, "out: expected a tuple of two arrays, for y_t and the state, got ndarray"),
            ((y,), errors.StructureError, "out: expected a tuple of two arrays"),
            ((y, None), errors.StructureError, r"out\[1\]: expected an array"),
            ((y[:2], state), errors.ShapeError, r"out\[0\]: expected y_t \(3, 5\), got \(2, 5\)|out\[0\]: expected"),
            ((y, state[0]), errors.ShapeError, r"out\[1\]: expected"),
            ((y.astype("f8"), state), errors.DTypeError, r"out\[0\]: expected float32, as x_t has, got float64"),
            ((y, to_library("torch", state)), errors.MixedArraysError, r"out\[1\]: expected an array of numpy"),
        ):
            with pytest.raises(error, match=message):
                model.step(x, state, out=out)
        assert not y.any() and not state.any()
        model.step(x, state, out=(y.copy(), state.copy()))
    y.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        model.step(x, state, out=(y, state))
    assert not state.any()


def test_jax_cannot_write() -> None:
    model = gru_xp.GRU(4, 5, seed=0, backend="jax")
    state = model.initial_state(3)
    with pytest.raises(errors.StructureError, match="out: expected None, because arrays of jax cannot be written to"):
        model.step(jnp.asarray(X[0]), state, out=(jnp.zeros((3, 5), "float32"), state))


def test_steps_into_out_take_no_memory() -> None:
    """Nothing is left after a step, and within a step there is less than 2 KB, so no array of this size."""
    pytest.importorskip("llvmlite")
    model = gru_xp.GRU(64, 128, num_layers=2, seed=0)
    x, y, state = np.ones((8, 64), "f4"), np.zeros((8, 128), "f4"), model.initial_state(8)
    assert min(y.nbytes, x.nbytes) >= 2048

    def run(steps: int) -> None:
        for _ in range(steps):
            model.step(x, state, out=(y, state))

    run(100)
    tracemalloc.start()
    try:
        run(1000)
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        run(1)
        _, peak = tracemalloc.get_traced_memory()
        run(10_000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 2048
    assert after - before < 100  # counters that leave the cache of small numbers


def test_a_step_in_a_new_thread_makes_no_new_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first step of a kind prepares serves every thread."""
    layer = pytest.importorskip("gru_xp_cpu").CpuLayer
    made: list[Any] = []
    stream = layer.stream
    monkeypatch.setattr(layer, "stream", lambda *arguments: made.append(None) or stream(*arguments))
    model, x, state = gru_xp.GRU(4, 5, seed=0), X[0], np.zeros((1, 3, 5), "f4")
    expected = model.step(x, state)[0]
    model.step(x, state)
    before = len(made)
    found: list[Any] = []
    for _ in range(5):
        thread = threading.Thread(target=lambda: found.append(model.step(x, state)[0]))
        thread.start()
        thread.join()
    assert len(made) == before > 0
    for y in found:
        np.testing.assert_array_equal(y, expected)


def test_threads_that_step_at_the_same_time() -> None:
    model = gru_xp.GRU(4, 5, seed=0)
    inputs = RNG.normal(size=(4, 300, 3, 4)).astype("f4")
    whole = [model(x)[0] for x in inputs]
    found: dict[int, Any] = {}

    def stream(index: int) -> None:
        y, state = np.zeros((300, 3, 5), "f4"), np.zeros((1, 3, 5), "f4")
        for x_t, y_t in zip(inputs[index], y, strict=True):
            model.step(x_t, state, out=(y_t, state))
        found[index] = y

    threads = [threading.Thread(target=stream, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, y in enumerate(whole):
        np.testing.assert_allclose(found[index], y, atol=1e-6)
