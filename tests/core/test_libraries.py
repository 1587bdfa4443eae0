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
