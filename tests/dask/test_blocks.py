"""Calls on Dask arrays: lazy, block by block, and the same numbers as the call on the whole."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from helpers import random_params

import gru_xp
from gru_xp import errors

T, N, I, H = 9, 8, 3, 5
RNG = np.random.default_rng(0)
X = RNG.standard_normal((T, N, I)).astype("float32")
LENGTHS = [9, 0, 4, 5, 9, 1, 3, 8]
RESETS = RNG.random((T, N)) < 0.2
MASK = RNG.random((T, N)) < 0.8
BACK = gru_xp.GRUSpec(reverse=True)
WHOLE, BY_ROWS, BY_BOTH = (T, N, I), (T, 3, I), (4, 3, I)


def params(L: int = 1, D: int = 1) -> gru_xp.Params:
    return gru_xp.map_params(lambda a: a.astype("float32"), random_params(RNG, I, H, L, D))


def close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(np.asarray(got), want, rtol=1e-5, atol=1e-5)


def ones(**options: Any) -> da.Array:
    return da.ones((T, N, I), dtype="f4", **options)


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("computed while the graph was built")


OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "lengths": {"lengths": LENGTHS},
    "lengths, lazy": {"lengths": da.from_array(np.array(LENGTHS), chunks=2)},
    "mask": {"mask": MASK},
    "resets": {"resets": da.from_array(RESETS, chunks=(2, 5))},
    "reverse": {"spec": BACK, "lengths": LENGTHS},
}


@pytest.mark.parametrize("chunks", [WHOLE, BY_ROWS, BY_BOTH], ids=["whole", "rows", "rows and time"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("L", [1, 2])
def test_one_direction_and_its_gradients(chunks: Any, options: str, L: int) -> None:
    weights, given = params(L), OPTIONS[options]
    if L == 2 and options == "reverse":
        pytest.skip("reverse is of one layer or of all: covered by one")
    h0, dy, dh_n = (RNG.standard_normal(s).astype("float32") for s in ((L, N, H), (T, N, H), (L, N, H)))
    plain = {key: value.compute() if isinstance(value, da.Array) else value for key, value in given.items()}
    y, h_n, tape = gru_xp.gru_forward(X, weights, h0, **plain)
    want = gru_xp.gru_backward(tape, dy, dh_n)
    with dask.config.set(scheduler=refuse):
        x = da.from_array(X, chunks=chunks)
        y2, h_n2, tape2 = gru_xp.gru_forward(x, weights, da.from_array(h0), **given)
        grads = gru_xp.gru_backward(tape2, da.from_array(dy), da.from_array(dh_n))
        y3, h_n3 = gru_xp.gru_inference(x, weights, h0, **given)
        y4, _ = gru_xp.gru(x, weights, h0, **given)
    assert y2.chunks[:2] == x.chunks[:2]
    assert y2.dtype == np.float32
    for got, right in ((y2, y), (h_n2, h_n), (y3, y), (h_n3, h_n), (y4, y), (grads.x, want.x), (grads.h0, want.h0)):
        assert type(got) is da.Array
        close(got, right)
    for got, right in zip(gru_xp.weights(grads.params), gru_xp.weights(want.params), strict=True):
        close(got, right)


def test_two_layers_of_two_directions_in_chunks_of_the_batch() -> None:
    weights = params(2, 2)
    x = da.from_array(X, chunks=BY_ROWS)
    y, h_n, tape = gru_xp.gru_forward(x, weights, lengths=LENGTHS)
    y1, h_n1, tape1 = gru_xp.gru_forward(X, weights, lengths=LENGTHS)
    close(y, y1)
    close(h_n, h_n1)
    grads, want = gru_xp.gru_backward(tape, y), gru_xp.gru_backward(tape1, y1)
    close(grads.x, want.x)
    for got, right in zip(gru_xp.weights(grads.params), gru_xp.weights(want.params), strict=True):
        close(got, right)


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_model(batch_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = gru_xp.GRU(I, H, num_layers=2, batch_first=batch_first, seed=0)
    given = X.swapaxes(0, 1) if batch_first else X
    x = da.from_array(given, chunks=3)
    x = x.rechunk({2: -1})
    close(model(x)[0], model(given)[0])
    monkeypatch.setenv("GRU_XP_BACKEND", "torch")  # computes the chunks
    close(model(x)[0], model(given)[0])
    y, _, tape = model.forward(x)
    grads = model.backward(tape, y)
    y1, _, tape1 = model.forward(given)
    close(grads.x, model.backward(tape1, y1).x)


def test_parameters_may_be_lazy_too() -> None:
    weights = params()
    lazy = gru_xp.map_params(lambda a: da.from_array(a, chunks=4), weights)
    close(gru_xp.gru(da.from_array(X, chunks=BY_ROWS), lazy)[0], gru_xp.gru(X, weights)[0])


def test_without_a_batch() -> None:
    weights = params()
    x = da.from_array(X[:, 0], chunks=(4, I))
    y, h_n = gru_xp.gru(x, weights, lengths=7)
    y1, h_n1 = gru_xp.gru(X[:, 0], weights, lengths=7)
    close(y, y1)
    close(h_n, h_n1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gru_xp.gru(ones(chunks=(T, N, 2)), params()), r"x\.rechunk\(\{2: -1\}\)"),
        (lambda: gru_xp.gru(ones(chunks=(4, N, I)), params(1, 2)), r"x\.rechunk\(\{0: -1\}\)"),
        (lambda: gru_xp.gru(ones(chunks=(4, N, I)), params(), resets=RESETS, spec=BACK), r"x\.rechunk\(\{0: -1\}\)"),
        (lambda: gru_xp.gru(da.ones((T, N, I + 1), dtype="f4"), params()), r"x: expected \(T, N, I\) = \(9, 8, 3\)"),
        (lambda: gru_xp.gru(da.ones((T, N, I), dtype="f8"), params()), r"x: expected float32, as the parameters have"),
        (lambda: gru_xp.gru(da.ones((T, N, I), dtype="f4"), params(), lengths=[10] * N), "lengths: expected values"),
        (lambda: gru_xp.gru(da.ones((T, N, I), dtype="f4"), params(), mask=da.ones((T, N))), "mask: expected booleans"),
        (lambda: gru_xp.gru(da.ones((T, N, I), dtype="f4")[:, da.ones(N) > 0], params()), r"compute_chunk_sizes\(\)"),
        (lambda: gru_xp.gru(X, params(), backend="dask"), "dask only takes over calls with its own arrays"),
    ],
    ids=[
        "features",
        "two directions in time",
        "resets, reversed",
        "shape",
        "dtype",
        "lengths",
        "mask",
        "unknown sizes",
        "as a backend",
    ],
)
def test_what_cannot_be_right_by_blocks_is_refused_before_anything_is_computed(call: Any, message: str) -> None:
    with dask.config.set(scheduler=refuse), pytest.raises(errors.GRUError, match=message):
        call()


def test_what_the_client_selects_computes_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    params = ((gru_xp.CellParams(np.ones((6, 3)), np.ones((6, 2))),),)
    x = da.ones((4, 5, 3), chunks=(4, 2, 3))
    seen: list[Any] = []
    inference = gru_xp.gru_inference
    monkeypatch.setattr(gru_xp, "gru_inference", lambda *a, **k: seen.append(k["backend"]) or inference(*a, **k))
    with gru_xp.use_backend("array_api_strict"):
        y, _ = gru_xp.gru(x, params)
    y.compute(scheduler="synchronous")
    monkeypatch.setenv("GRU_XP_BACKEND", "array_api_strict")
    y, _ = gru_xp.gru(x, params)
    monkeypatch.delenv("GRU_XP_BACKEND")
    y.compute(scheduler="synchronous")
    assert seen == ["array_api_strict"] * 6


@pytest.mark.parametrize("wrong", [-1, 5])
def test_lazy_lengths_out_of_range_are_refused_where_they_are_computed(wrong: int) -> None:
    params = ((gru_xp.CellParams(np.ones((6, 3)), np.ones((6, 2))),),)
    y, _ = gru_xp.gru(da.ones((4, 2, 3), chunks=(2, 1, 3)), params, lengths=da.from_array(np.array([4, wrong])))
    with pytest.raises(errors.RangeError, match="lengths: expected 0 to T = 4"):
        y.compute(scheduler="synchronous")


def test_a_cell_and_its_gradients() -> None:
    w, h = params()[0][0], RNG.standard_normal((N, H)).astype("float32")
    x = da.from_array(X[0], chunks=(3, I))
    h1, tape = gru_xp.gru_cell_forward(x, da.from_array(h), w)
    want, tape_of_numpy = gru_xp.gru_cell_forward(X[0], h, w)
    close(h1, want)
    grads, right = gru_xp.gru_cell_backward(tape, h1), gru_xp.gru_cell_backward(tape_of_numpy, want)
    close(grads.x, right.x)
    close(grads.h, right.h)
    for got, gradient in zip(grads.params, right.params, strict=True):
        close(got, gradient)


def test_prepared_parameters_of_either_library() -> None:
    weights = params()
    x, want = da.from_array(X, chunks=BY_ROWS), gru_xp.gru_inference(X, weights)[0]
    close(gru_xp.gru_inference(x, gru_xp.prepare(weights))[0], want)
    lazy = gru_xp.prepare(gru_xp.map_params(da.from_array, weights))
    close(gru_xp.gru_inference(x, lazy)[0], want)
