"""Activations: values against PyTorch's and Keras's, derivatives against autograd, every array library, both tails."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import LIBRARIES, to_library, to_numpy
from libraries import torch

from gru_xp import Activation, errors
from gru_xp.activations import FUNCTIONS
from gru_xp.discovery import load

# ours, and the same function by other hands
OTHERS: dict[Activation, Callable[[Any], Any]] = {
    Activation("sigmoid"): lambda a: torch.sigmoid(a),
    Activation("tanh"): lambda a: torch.tanh(a),
    Activation("relu"): lambda a: torch.relu(a),
    Activation("affine", 0.3, -0.2): lambda a: torch.add(0.3 * a, -0.2),
    Activation("linear"): lambda a: 1.0 * a,
    Activation("leaky_relu"): lambda a: torch.nn.functional.leaky_relu(a, 0.01),
    Activation("leaky_relu", -0.5): lambda a: torch.maximum(a, torch.zeros_like(a)) - 0.5 * a.clamp(max=0.0),
    Activation("thresholded_relu"): lambda a: torch.nn.functional.threshold(a, 1.0, 0.0),
    Activation("scaled_tanh", 1.7, 0.6): lambda a: 1.7 * (2.0 * torch.sigmoid(2.0 * 0.6 * a) - 1.0),
    Activation("hard_sigmoid"): lambda a: (0.2 * a + 0.5).clamp(0.0, 1.0),
    Activation.keras("hard_sigmoid"): lambda a: torch.nn.functional.relu6(a + 3.0) / 6.0,
    Activation("elu"): lambda a: torch.nn.functional.elu(a),
    Activation("elu", 0.4): lambda a: torch.nn.functional.elu(a, 0.4),
    Activation("selu"): lambda a: torch.nn.functional.selu(a),
    Activation("softsign"): lambda a: torch.nn.functional.softsign(a),
    Activation("softplus"): lambda a: torch.nn.functional.softplus(a, threshold=40.0),
    Activation("swish"): lambda a: torch.nn.functional.silu(a),
    Activation("exponential"): lambda a: torch.exp(a),
}
# no kink of any of them among these; the float64 tails as far as exp is finite
A = np.concatenate([np.linspace(-9.03, 9.01, 501), [-700.0, -60.5, 60.5, 700.0]])
EPS = 2.0**-52


def test_every_activation_has_an_oracle() -> None:
    assert {activation.name for activation in OTHERS} == set(FUNCTIONS)


@pytest.mark.parametrize("activation", OTHERS, ids=str)
def test_value_and_derivative(activation: Activation) -> None:
    a = torch.tensor(A, requires_grad=True)
    value = OTHERS[activation](a)
    (slope,) = torch.autograd.grad(value.sum(), a)
    xp = load("numpy").xp
    for got, wanted in ((activation.value(A, xp), value), (activation.derivative(A, xp), slope)):
        wanted = wanted.detach().numpy()
        assert np.all(np.abs(got - wanted) <= 16 * EPS * np.maximum(1.0, np.abs(wanted)))


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_has_the_same(library: str) -> None:
    xp, numpy = load(library).xp, load("numpy").xp
    a = A[:501].astype("f4")
    native = to_library(library, a)
    for activation in OTHERS:
        for function in (activation.value, activation.derivative):
            got, wanted = function(native, xp), function(a, numpy)
            assert type(got) is type(native) and str(got.dtype).endswith("float32")
            np.testing.assert_allclose(to_numpy(got), wanted, rtol=4e-6, atol=2e-6)


@pytest.mark.parametrize("activation", [a for a in OTHERS if a.name != "exponential"], ids=str)
def test_tails_overflow_nowhere_and_nan_stays(activation: Activation) -> None:
    """Warnings are errors. exponential is infinite at its right tail, which is right."""
    xp, largest = load("numpy").xp, float(np.finfo("f4").max) / 4.0
    far = np.asarray([-largest, -1e4, -100.0, 100.0, 1e4, largest], "f4")
    value, slope = activation.value(far, xp), activation.derivative(far, xp)
    assert np.isfinite(value).all() and np.isfinite(slope).all()
    wanted = OTHERS[activation](torch.tensor(far, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(value, wanted, rtol=2e-6, atol=2e-7)
    if activation.name != "affine":
        assert np.isnan(activation.value(np.asarray([np.nan]), xp)).all()


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "thresholded_relu", "hard_sigmoid", "elu", "selu"])
def test_at_a_kink_the_derivative_is_that_of_the_left_piece_or_the_flat_one(name: str) -> None:
    activation, xp = Activation(name), load("numpy").xp
    kinks = {"thresholded_relu": [1.0], "hard_sigmoid": [-2.5, 2.5]}.get(name, [0.0])
    step = {"hard_sigmoid": [-1.0, 1.0]}.get(name, [-1.0])
    at, beside = np.asarray(kinks), np.asarray(kinks) + 1e-9 * np.asarray(step)
    np.testing.assert_allclose(activation.derivative(at, xp), activation.derivative(beside, xp), atol=1e-8)
    a = torch.tensor(at, requires_grad=True)  # PyTorch's autograd through our own operations finds the same
    (found,) = torch.autograd.grad(activation.value(a, load("torch").xp).sum(), a)
    np.testing.assert_allclose(found, activation.derivative(at, xp))


def test_names_and_constants() -> None:
    assert Activation("HardSigmoid") == Activation("hard_sigmoid", 0.2, 0.5) == Activation("hardsigmoid")
    assert Activation("LeakyRelu").alpha == 0.01
    assert Activation.keras("leaky_relu").alpha == 0.2
    assert Activation.keras("linear") == Activation("affine", 1, 0)
    assert Activation.keras("silu") == Activation("swish")
    assert Activation("elu", np.float32(0.5)).alpha == 0.5
    assert str(Activation("ScaledTanh", 2, 3)) == "scaled_tanh(alpha=2.0, beta=3.0)"
    assert hash(Activation("Elu")) == hash(Activation("elu", 1.0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("mish",), errors.StructureError, "activation: expected one of sigmoid, tanh, .*, got 'mish'"),
        (("gelu",), errors.StructureError, "got 'gelu'; its derivative needs the error function"),
        ((7,), errors.StructureError, "activation: expected a name, got 7"),
        (("tanh", 1.0), errors.StructureError, "alpha: expected None, because tanh has no alpha, got 1.0"),
        (("elu", 1.0, 1.0), errors.StructureError, "beta: expected None, because elu has no beta"),
        (("elu", "1"), errors.StructureError, "alpha: expected a number, got '1'"),
        (("elu", True), errors.StructureError, "alpha: expected a number, got True"),
        (("elu", math.nan), errors.RangeError, "alpha: expected a finite number, got nan"),
        (("affine", 1.0, 10**400), errors.RangeError, "beta: expected a finite number, got 1000"),
    ],
)
def test_what_is_no_activation(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Activation(*arguments)
