"""The same numbers from every backend for the same call, whoever the arrays belong to and wherever it is computed."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import LIBRARIES, assert_close, random_params, random_problem, run_everything, to_library, to_numpy

import gru_xp
from gru_xp import discovery
from gru_xp.params import map_params

# largest relative differences that rounding in another order of summation may make
ROUNDING = {"float64": 1e-13, "float32": 2e-5, "float16": 2e-2, "bfloat16": 1e-1}


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("computed_on", [None, *LIBRARIES, "array_api_strict:device1"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_pair_in_float64(library: str, computed_on: str | None, reset_after: bool) -> None:
    problem, spec = random_problem(1), gru_xp.GRUSpec(reset_after)
    expected = run_everything(problem, lambda a: a, spec=spec)
    got = run_everything(problem, lambda a: to_library(library, a), spec=spec, backend=computed_on)
    own = discovery.load(library)
    assert all(own.owns(a) for a in got.values())
    assert_close(got, expected, ROUNDING["float64"])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("save", ["all", "states"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_smaller_dtypes(library: str, save: str, dtype: str) -> None:
    backend = discovery.load(library)
    if dtype not in backend.float_names():
        pytest.skip(f"{library} has no {dtype}")
    problem = random_problem(2, dtype=dtype)
    expected = run_everything(problem, lambda a: a)
    got = run_everything(problem, lambda a: to_library(library, a), save=save)
    assert {backend.dtype_name(a.dtype) for a in got.values()} == {dtype}
    assert_close(got, expected, ROUNDING[dtype])


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_bfloat16(library: str) -> None:
    backend, problem = discovery.load(library), random_problem(2, dtype="float32")

    def put(a):
        a = to_library(library, a)
        return a if backend.dtype_name(a.dtype) == "bool" else backend.xp.astype(a, backend.xp.bfloat16)

    got = run_everything(problem, put)
    assert {backend.dtype_name(a.dtype) for a in got.values()} == {"bfloat16"}
    wide = {name: backend.xp.astype(a, backend.xp.float32) for name, a in got.items()}
    assert_close(wide, run_everything(problem, lambda a: a), ROUNDING["bfloat16"])


@pytest.mark.parametrize("library", LIBRARIES)
def test_cell_is_a_sequence_of_one_step(library: str) -> None:
    rng = np.random.default_rng(0)
    w = random_params(rng, 5, 3)[0][0]
    x, h, dh1 = rng.normal(size=(2, 5)), rng.normal(size=(2, 3)), rng.normal(size=(2, 3))
    put = lambda a: to_library(library, a)  # noqa: E731
    w_put = map_params(put, ((w,),))[0][0]
    y, h_n, tape = gru_xp.gru_forward(x[None], ((w,),), h[None])
    expected = gru_xp.gru_backward(tape, dh_n=dh1[None])
    h1, cell_tape = gru_xp.gru_cell_forward(put(x), put(h), w_put)
    grads = gru_xp.gru_cell_backward(cell_tape, put(dh1))
    for other in (gru_xp.gru_cell, gru_xp.gru_cell_inference):
        assert_close({"h1": other(put(x), put(h), w_put)}, {"h1": y[0]}, ROUNDING["float64"])
    assert_close({"h1": h1, "x": grads.x}, {"h1": h_n[0], "x": expected.x[0]}, ROUNDING["float64"])
    assert_close(grads.params._asdict(), expected.params[0][0]._asdict(), ROUNDING["float64"])


@pytest.mark.parametrize("library", LIBRARIES)
def test_bit_identical_from_run_to_run(library: str) -> None:
    problem = random_problem(4, dtype="float32")
    first, second = (run_everything(problem, lambda a: to_library(library, a)) for _ in range(2))
    for name, a in first.items():
        np.testing.assert_array_equal(to_numpy(a), to_numpy(second[name]), err_msg=name)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("T", "N"), [(0, 3), (4, 0), (0, 0)])
def test_no_steps_and_no_rows(library: str, T: int, N: int) -> None:
    problem = random_problem(5, T=T, N=N)
    expected = run_everything(problem, lambda a: a)
    assert expected["y"].shape == (T, N, 6)
    np.testing.assert_array_equal(expected["h_n"], problem.h0)
    assert not np.shares_memory(expected["h_n"], problem.h0)
    assert_close(run_everything(problem, lambda a: to_library(library, a)), expected, ROUNDING["float64"])


def test_arguments_are_never_written_to_nor_returned() -> None:
    problem = random_problem(6)
    arrays = [problem.x, problem.h0, problem.resets, problem.dropout_masks, problem.dy, problem.dh_n]
    arrays += [a for layer in problem.params for w in layer for a in w]
    before = [a.copy() for a in arrays]
    found = run_everything(problem, lambda a: a)
    for a, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, copy)
        assert not any(np.shares_memory(a, result) for result in found.values())


def test_two_threads_at_once() -> None:
    from concurrent.futures import ThreadPoolExecutor

    problems = [random_problem(seed) for seed in range(8)]
    alone = [run_everything(problem, lambda a: a) for problem in problems]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda problem: run_everything(problem, lambda a: a), problems * 5))
    for index, found in enumerate(together):
        assert_close(found, alone[index % len(problems)], 0.0)
