"""A tape that somebody has changed is refused by the name of what does not fit, by kernels and by the plain path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import random_params

import gru_xp
from gru_xp.errors import GRUError

FIELDS = ("x", "h_prev", "r", "z", "n", "u", "valid", "resets")
CHANGES = {
    "shorter": lambda a: a[:-1],
    "broadcast": lambda a: a[:1, :1],
    "dtype": lambda a: a.astype("i8"),
    "no array": lambda a: 12345,
}


@pytest.fixture
def tape() -> Any:
    rng = np.random.default_rng(0)
    params = random_params(rng, 5, 3, L=2, D=2)
    resets = rng.random((7, 4)) < 0.3
    return gru_xp.gru_forward(rng.standard_normal((7, 4, 5)), params, lengths=[7, 3, 5, 1], resets=resets)[2]


def changed(tape: Any, layer: int, **fields: Any) -> Any:
    first, *others = tape.layers[layer]
    layers = list(tape.layers)
    layers[layer] = (first._replace(**fields), *others)
    return tape._replace(layers=tuple(layers))


@pytest.mark.parametrize("kernels", ["off", "auto"])
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("field", FIELDS)
def test_an_array_of_a_layer(
    tape: Any, field: str, change: str, layer: int, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRU_XP_KERNELS", kernels)
    dy = np.ones((7, 4, 6))
    gru_xp.gru_backward(tape, dy)  # the plan is there already
    array = CHANGES[change](getattr(tape.layers[layer][0], field))
    with pytest.raises(GRUError, match=field):
        gru_xp.gru_backward(changed(tape, layer, **{field: array}), dy)


@pytest.mark.parametrize("kernels", ["off", "auto"])
@pytest.mark.parametrize("change", ["shorter", "dtype", "no array"])
@pytest.mark.parametrize("field", gru_xp.CellParams._fields)
def test_weights_of_a_layer(tape: Any, field: str, change: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_KERNELS", kernels)
    w = tape.layers[0][0].w
    other = w._replace(**{field: CHANGES[change](getattr(w, field))})
    with pytest.raises(GRUError, match=field):
        gru_xp.gru_backward(changed(tape, 0, w=other), np.ones((7, 4, 6)))


@pytest.mark.parametrize("layers", [(), None, ((),), ((1,),), ((None, None), (None, None))])
def test_layers_that_are_none(tape: Any, layers: Any) -> None:
    with pytest.raises(GRUError, match="tape.layers"):
        gru_xp.gru_backward(tape._replace(layers=layers), np.ones((7, 4, 6)))
