"""The same numbers for the arrays of each library, computed by each library; the conformance suite judges the rest."""

from __future__ import annotations

import pytest
from helpers import LIBRARIES, assert_close, random_problem, run_everything, to_library

import gru_xp
from gru_xp import discovery

# largest relative differences that rounding in another order of summation may make
ROUNDING = {"float64": 1e-13, "float16": 2e-2, "bfloat16": 1e-1}


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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("save", ["all", "states"])
def test_jax_in_16_bits(save: str, dtype: str) -> None:
    """The conformance suite judges this too, but takes minutes for JAX and is not run for each change."""
    backend, problem = discovery.load("jax"), random_problem(2, dtype="float32")

    def put(a):
        a = to_library("jax", a)
        return a if backend.dtype_name(a.dtype) == "bool" else backend.xp.astype(a, backend.dtype(dtype))

    got = run_everything(problem, put, save=save)
    assert {backend.dtype_name(a.dtype) for a in got.values()} == {dtype}
    wide = {name: backend.xp.astype(a, backend.xp.float32) for name, a in got.items()}
    assert_close(wide, run_everything(problem, lambda a: a), ROUNDING[dtype])


@pytest.mark.parametrize("library", LIBRARIES)
def test_wrong_arrays_are_refused_after_a_right_call_of_the_same_kind(library: str) -> None:
    """A memoised plan must not be asked about arrays that it is not for."""
    problem = random_problem(0, L=1, D=1, dtype="float32")
    x, h0 = to_library(library, problem.x), to_library(library, problem.h0)
    params = gru_xp.map_params(lambda a: to_library(library, a), problem.params)
    other = to_library("torch" if library == "numpy" else "numpy", problem.h0)
    _, _, tape = gru_xp.gru_forward(x, params, h0)
    gru_xp.gru_backward(tape, dh_n=h0)
    gru_xp.gru(x, params, h0)
    for wrong in (other, problem.h0.tolist(), 3):
        for call in (
            lambda wrong=wrong: gru_xp.gru(x, params, wrong),
            lambda wrong=wrong: gru_xp.gru_forward(x, params, wrong),
            lambda wrong=wrong: gru_xp.gru(x, ((params[0][0]._replace(W_hh=wrong),),), h0),
            lambda wrong=wrong: gru_xp.gru_backward(tape, dh_n=wrong),
            lambda wrong=wrong: gru_xp.gru_cell(x[0, ...], wrong, params[0][0]),
        ):
            with pytest.raises(gru_xp.GRUError):
                call()
