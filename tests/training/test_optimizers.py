"""Optimisers against torch.optim, clipping against torch.nn.utils."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LIBRARIES, to_library, to_numpy

from gru_xp.errors import DTypeError, RangeError, ShapeError, StructureError
from gru_xp.training import SGD, Adam, clip_by_norm, leaves, map_tree

SHAPES = {"W": (3, 4), "cell": [(5,), ()]}


def drawn(rng: np.random.Generator) -> dict[str, Any]:
    return {"W": rng.normal(size=(3, 4)), "cell": [rng.normal(size=5), rng.normal(size=())]}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Adam(rate=0.01), lambda p: torch.optim.Adam(p, lr=0.01)),
        (Adam(0.1, 0.8, 0.99, 1e-3), lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.99), eps=1e-3)),
        (Adam(0.01, weight_decay=0.3), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3)),
        (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    ],
    ids=["Adam", "other constants", "AdamW", "SGD", "momentum"],
)
def test_twenty_steps_are_those_of_torch(library: str, ours: Any, theirs: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    start = drawn(rng)
    weights = map_tree(lambda a: to_library(library, a), start)
    tensors = [torch.tensor(w, requires_grad=True) for w in leaves(start)]
    state, optimizer = ours.init(weights), theirs(tensors)
    for _ in range(20):
        gradients = drawn(rng)
        weights, state = ours.update(weights, map_tree(lambda a: to_library(library, a), gradients), state)
        for tensor, g in zip(tensors, leaves(gradients), strict=True):
            tensor.grad = torch.tensor(g)
        optimizer.step()
    assert state["step"] == 20
    for w, tensor in zip(leaves(weights), tensors, strict=True):
        np.testing.assert_allclose(to_numpy(w), tensor.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_a_schedule_is_asked_at_each_step_and_keeps_the_dtype() -> None:
    """NumPy's float64 scalars would widen the weights."""
    asked: list[int] = []
    schedule = lambda step: asked.append(step) or np.float64(0.5) ** step  # noqa: E731
    weights, gradient = np.zeros(1, "f4"), np.ones(1, "f4")
    sgd = SGD(schedule)
    state = sgd.init(weights)
    for _ in range(3):
        weights, state = sgd.update(weights, gradient, state)
    assert asked == [0, 1, 2] and weights.dtype == np.float32
    np.testing.assert_allclose(weights, [-1.75])


def test_nothing_is_written_to() -> None:
    rng = np.random.default_rng(0)
    weights, gradients = drawn(rng), drawn(rng)
    for tree in (weights, gradients):
        for array in leaves(tree):
            array.flags.writeable = False
    for optimizer in (Adam(0.1), SGD(0.1, 0.9)):
        state = optimizer.init(weights)
        first = optimizer.update(weights, gradients, state)
        again = optimizer.update(weights, gradients, state)
        for a, b in zip(leaves(first), leaves(again), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("bound", [0.5, 1e3])
def test_clipping_is_that_of_torch(library: str, bound: float) -> None:
    gradients = drawn(np.random.default_rng(1))
    tensors = [torch.nn.Parameter(torch.zeros(np.shape(g), dtype=torch.float64)) for g in leaves(gradients)]
    for tensor, g in zip(tensors, leaves(gradients), strict=True):
        tensor.grad = torch.tensor(g)
    expected = torch.nn.utils.clip_grad_norm_(tensors, bound)
    clipped, norm = clip_by_norm(map_tree(lambda a: to_library(library, a), gradients), bound)
    assert float(norm) == pytest.approx(float(expected), rel=1e-12)
    for a, tensor, g in zip(leaves(clipped), tensors, leaves(gradients), strict=True):
        np.testing.assert_allclose(to_numpy(a), tensor.grad.numpy(), rtol=2e-6)  # torch adds 1e-6 to the norm
        if bound > float(norm):
            np.testing.assert_array_equal(to_numpy(a), g)


def test_gradients_that_are_zero_stay_zero() -> None:
    clipped, norm = clip_by_norm([np.zeros(3, "f4")], 1.0)
    assert float(norm) == 0.0 and clipped[0].dtype == np.float32 and not clipped[0].any()


@pytest.mark.parametrize("optimizer", [Adam(), SGD(0.1)], ids=["Adam", "SGD"])
def test_what_does_not_fit_is_refused(optimizer: Any) -> None:
    weights = {"W": np.zeros((2, 3), "f4"), "b": np.zeros(3, "f4")}
    state = optimizer.init(weights)

    def update(**gradients: Any) -> None:
        optimizer.update(weights, {"W": np.zeros((2, 3), "f4"), **gradients}, state)

    with pytest.raises(ShapeError, match=r"gradients: b: expected \(3,\), as the weight has, got \(1,\)"):
        update(b=np.zeros(1, "f4"))
    with pytest.raises(DTypeError, match="gradients: b: expected float32, as the weight has, got float64"):
        update(b=np.zeros(3))
    with pytest.raises(StructureError, match="expected a dict of W, b, got a dict of W"):
        update()
    with pytest.raises(DTypeError, match="weights: W: expected float32 or float64, got float16; keep float32"):
        optimizer.init({"W": np.zeros(2, "f2")})
    with pytest.raises(StructureError, match="weights: b: expected an array, got a float"):
        optimizer.init({"b": 0.0})


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    with pytest.raises(RangeError, match="bound: expected a number above 0"):
        clip_by_norm([np.ones(2)], bound)
