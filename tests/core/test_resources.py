"""Memory does not grow: streaming, training, backward over long sequences."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from helpers import random_params

import gru_xp

STEPS = 100_000  # a million, which takes a minute, was run by hand


def test_streaming_does_not_grow_memory() -> None:
    model = gru_xp.GRU(2, 3, 1, seed=0)
    x, state = np.ones(2, "f4"), model.initial_state()
    for _ in range(STEPS // 10):
        _, state = model.step(x, state)
    before = resident()
    for _ in range(STEPS):
        _, state = model.step(x, state)
    assert resident() - before < 10 * STEPS  # an object a step would be at least 16 bytes each


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_training_does_not_grow_memory() -> None:
    rng = np.random.default_rng(0)
    model = gru_xp.GRU(3, 4, 2, dropout=0.1, seed=0)
    x, dy = rng.normal(size=(5, 2, 3)).astype("f4"), np.ones((5, 2, 4), "f4")

    def iterate(count: int) -> None:
        for seed in range(count):
            _, _, tape = model.forward(x, dropout_seed=seed)
            grads = model.backward(tape, dy)
            model.params = tuple(
                tuple(
                    gru_xp.CellParams(*(a - 1e-3 * da for a, da in zip(w, dw, strict=True)))
                    for w, dw in zip(*pair, strict=True)
                )
                for pair in zip(model.params, grads.params, strict=True)
            )

    iterate(200)
    before = resident()
    iterate(3000)
    assert resident() - before < 4e6


@pytest.mark.parametrize("save", ["all", "states"])
def test_scratch_memory_of_backward_does_not_grow_with_T(save: str) -> None:
    """Beyond its results and its arguments, backward takes the same for 4,000 steps as for 16,000."""
    rng = np.random.default_rng(0)
    params = random_params(rng, 8, 16)

    def scratch(T: int) -> int:
        x = rng.normal(size=(T, 4, 8))
        y, _, tape = gru_xp.gru_forward(x, params, save=save)
        dy = np.ones_like(y)
        gru_xp.gru_backward(tape, dy)
        tracemalloc.start()
        grads = gru_xp.gru_backward(tape, dy)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak - 2 * grads.x.nbytes  # one while it is put together

    assert scratch(16_000) < 1.2 * scratch(4_000) + 2e5


def test_states_take_less_than_all() -> None:
    rng = np.random.default_rng(0)
    params, x = random_params(rng, 4, 64), rng.normal(size=(100, 8, 4))

    def kept(save: str) -> int:
        ((layer,),) = gru_xp.gru_forward(x, params, save=save)[2].layers
        arrays = (layer.x, layer.h_prev, layer.r, layer.z, layer.n, layer.u)
        return sum(a.nbytes for a in arrays if a is not None)

    assert kept("states") < 0.25 * kept("all")
