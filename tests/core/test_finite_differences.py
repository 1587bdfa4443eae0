"""Gradients against central differences, where PyTorch has no equivalent: resets, `reset_after=False`, both at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Problem, random_problem

import gru_xp
from gru_xp.params import map_params

STEP = 1e-5
BOUND = 1e-8  # of central differences in float64: STEP ** 2 and eps / STEP


def loss(problem: Problem, spec: gru_xp.GRUSpec) -> float:
    y, h_n = gru_xp.gru_inference(
        problem.x,
        problem.params,
        problem.h0,
        lengths=problem.lengths,
        resets=problem.resets,
        spec=spec,
        dropout_masks=problem.dropout_masks,
    )
    return float(np.sum(y * problem.dy) + np.sum(h_n * problem.dh_n))


@pytest.mark.parametrize("save", ["all", "states"])
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize(("L", "D"), [(1, 1), (2, 2)])
def test_every_gradient_equals_finite_differences(L: int, D: int, reset_after: bool, save: str) -> None:
    problem = random_problem(3, T=5, N=3, I=3, H=2, L=L, D=D)
    spec = gru_xp.GRUSpec(reset_after)
    _, _, tape = gru_xp.gru_forward(
        problem.x,
        problem.params,
        problem.h0,
        lengths=problem.lengths,
        resets=problem.resets,
        spec=spec,
        dropout_masks=problem.dropout_masks,
        save=save,
    )
    grads = gru_xp.gru_backward(tape, problem.dy, problem.dh_n)
    assert_slopes(grads.x, problem.x, lambda x: loss(problem._replace(x=x), spec), "dx")
    assert_slopes(grads.h0, problem.h0, lambda h0: loss(problem._replace(h0=h0), spec), "dh0")
    for layer in range(L):
        for d in range(D):
            for field in gru_xp.CellParams._fields:

                def with_weight(weight: Any, at: tuple[int, int] = (layer, d), field: str = field) -> float:
                    params = [list(directions) for directions in map_params(lambda a: a, problem.params)]
                    params[at[0]][at[1]] = params[at[0]][at[1]]._replace(**{field: weight})
                    return loss(problem._replace(params=params), spec)

                name = f"d{field}[{layer}][{d}]"
                assert_slopes(
                    getattr(grads.params[layer][d], field), getattr(problem.params[layer][d], field), with_weight, name
                )


def assert_slopes(gradient: np.ndarray, at: np.ndarray, function: Any, name: str) -> None:
    for index in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[index] += STEP
        down[index] -= STEP
        slope = (function(up) - function(down)) / (2 * STEP)
        assert abs(gradient[index] - slope) <= BOUND * max(1.0, abs(slope)), (
            f"{name}{index}: {gradient[index]}, {slope}"
        )
