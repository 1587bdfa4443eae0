"""The activations that trained models use beside sigmoid and tanh: each with its value and its derivative.

The names are in lower case; ONNX's (`HardSigmoid`) and Keras's are taken too. Values at infinity aside, nothing
overflows on the way to a result that is finite. At a kink the derivative is that of the left piece, everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

from .errors import RangeError, StructureError

__all__ = ["SIGMOID", "TANH", "Activation"]


@dataclass(frozen=True)
class Activation:
    """A function of each element, by name, with its one or two constants.

    Args:
        name: sigmoid, tanh, relu, affine (`alpha * a + beta`; `linear` is that with 1 and 0), leaky_relu,
            thresholded_relu, scaled_tanh (`alpha * tanh(beta * a)`), hard_sigmoid (`alpha * a + beta` within 0 and 1),
            elu, selu, softsign, softplus, swish, exponential. Capitals and underscores do not matter.
        alpha: by default ONNX's: 0.01 for leaky_relu, 1 for thresholded_relu and elu, 0.2 for hard_sigmoid; 1 for
            affine and scaled_tanh, which have no operator in ONNX.
        beta: by default 0.5 for hard_sigmoid; 0 for affine and 1 for scaled_tanh.

    >>> Activation("HardSigmoid")
    Activation(name='hard_sigmoid', alpha=0.2, beta=0.5)
    >>> Activation.keras("hard_sigmoid").alpha
    0.16666666666666666
    """

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        name = _canonical(self.name)
        if name == "linear":
            name = "affine"
        _assert_known(name, self.name, "activation")
        function = FUNCTIONS[name]
        object.__setattr__(self, "name", name)
        for letter, default in (("alpha", function.alpha), ("beta", function.beta)):
            object.__setattr__(self, letter, _constant(name, letter, getattr(self, letter), default))

    @classmethod
    def of(cls, value: Any, argument: str) -> Activation:
        """An activation, or the one of that name; `argument` is what errors call it."""
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            _assert_known(_canonical(value), value, argument)
            return cls(value)
        raise StructureError(f"{argument}: expected an Activation or its name, got {value!r}")

    @classmethod
    def keras(cls, name: str) -> Activation:
        """What Keras 3 means by a name: its hard_sigmoid is relu6(a + 3) / 6, and its leaky_relu has the slope 0.2."""
        canonical = _canonical(name)
        return cls(canonical, *KERAS.get(canonical, ()))

    def __str__(self) -> str:
        constants = [
            f"{letter}={value!r}" for letter in ("alpha", "beta") if (value := getattr(self, letter)) is not None
        ]
        return f"{self.name}({', '.join(constants)})" if constants else self.name

    def value(self, a: Any, xp: Any) -> Any:
        """The function of each element of a, in a's namespace."""
        return FUNCTIONS[self.name].value(a, xp, self.alpha, self.beta)

    def derivative(self, a: Any, xp: Any) -> Any:
        """Its derivative at each element of a."""
        return FUNCTIONS[self.name].derivative(a, xp, self.alpha, self.beta)


def _canonical(name: Any) -> str:
    if not isinstance(name, str):
        raise StructureError(f"activation: expected a name, got {name!r}")
    plain = name.lower().replace("_", "")
    return ALIASES.get(plain, name)


def _assert_known(name: str, given: str, argument: str) -> None:
    if name not in FUNCTIONS and name != "linear":
        why = "; its derivative needs the error function, which the array API standard lacks" if name == "gelu" else ""
        raise StructureError(f"{argument}: expected one of {', '.join(FUNCTIONS)}, got {given!r}{why}")


def _constant(name: str, letter: str, value: Any, default: float | None) -> float | None:
    if value is None:
        return default
    if default is None:
        raise StructureError(f"{letter}: expected None, because {name} has no {letter}, got {value!r}")
    return finite(value, letter)


def finite(value: Any, name: str) -> float:
    """A number of any kind as a float that is finite."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise StructureError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RangeError(f"{name}: expected a finite number, got {str(value)[:40]}")
    return number


# ---- the functions ---------------------------------------------------------------------------------------------------

Formula: TypeAlias = "Callable[[Any, Any, Any, Any], Any]"  # a, xp, alpha, beta


class Function(NamedTuple):
    """Value and derivative at a, and the defaults of the constants that it has."""

    value: Formula
    derivative: Formula
    alpha: float | None = None
    beta: float | None = None


def constant(a: Any, value: float, xp: Any) -> Any:
    """That value in the shape and type of a."""
    return xp.full_like(a, value)


def sigmoid(a: Any, xp: Any, *_: Any) -> Any:
    return 0.5 * (1.0 + xp.tanh(0.5 * a))


def sigmoid_slope(a: Any, xp: Any, *_: Any) -> Any:
    s = sigmoid(a, xp)
    return s * (1.0 - s)


def tanh(a: Any, xp: Any, *_: Any) -> Any:
    return xp.tanh(a)


def tanh_slope(a: Any, xp: Any, *_: Any) -> Any:
    t = xp.tanh(a)
    return 1.0 - t * t


def affine(a: Any, xp: Any, alpha: float, beta: float) -> Any:
    return alpha * a + beta


def affine_slope(a: Any, xp: Any, alpha: float, beta: float) -> Any:
    return constant(a, alpha, xp)


def scaled_tanh(a: Any, xp: Any, alpha: float, beta: float) -> Any:
    return alpha * xp.tanh(beta * a)


def scaled_tanh_slope(a: Any, xp: Any, alpha: float, beta: float) -> Any:
    return (alpha * beta) * tanh_slope(beta * a, xp)


def leaky_relu(a: Any, xp: Any, alpha: float, _: Any) -> Any:
    return xp.where(a <= 0.0, alpha * a, a)


def leaky_relu_slope(a: Any, xp: Any, alpha: float, _: Any) -> Any:
    return xp.where(a <= 0.0, constant(a, alpha, xp), constant(a, 1.0, xp))


def thresholded_relu(a: Any, xp: Any, alpha: float, _: Any = None) -> Any:
    return xp.where(a <= alpha, constant(a, 0.0, xp), a)


def thresholded_relu_slope(a: Any, xp: Any, alpha: float, _: Any = None) -> Any:
    return xp.where(a <= alpha, constant(a, 0.0, xp), constant(a, 1.0, xp))


def relu(a: Any, xp: Any, *_: Any) -> Any:
    return thresholded_relu(a, xp, 0.0)


def relu_slope(a: Any, xp: Any, *_: Any) -> Any:
    return thresholded_relu_slope(a, xp, 0.0)


def hard_sigmoid(a: Any, xp: Any, alpha: float, beta: float) -> Any:
    line = alpha * a + beta
    return xp.where(line <= 0.0, constant(a, 0.0, xp), xp.where(line >= 1.0, constant(a, 1.0, xp), line))


def hard_sigmoid_slope(a: Any, xp: Any, alpha: float, beta: float) -> Any:
    line = alpha * a + beta
    return xp.where((line <= 0.0) | (line >= 1.0), constant(a, 0.0, xp), constant(a, alpha, xp))


def elu(a: Any, xp: Any, alpha: float, _: Any = None) -> Any:
    left = a <= 0.0
    return xp.where(left, alpha * xp.expm1(xp.where(left, a, constant(a, 0.0, xp))), a)


def elu_slope(a: Any, xp: Any, alpha: float, _: Any = None) -> Any:
    left = a <= 0.0
    return xp.where(left, alpha * xp.exp(xp.where(left, a, constant(a, 0.0, xp))), constant(a, 1.0, xp))


# Klambauer et al. 2017, https://arxiv.org/abs/1706.02515
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def selu(a: Any, xp: Any, *_: Any) -> Any:
    return SELU_SCALE * elu(a, xp, SELU_ALPHA)


def selu_slope(a: Any, xp: Any, *_: Any) -> Any:
    return SELU_SCALE * elu_slope(a, xp, SELU_ALPHA)


def softsign(a: Any, xp: Any, *_: Any) -> Any:
    return a / (1.0 + xp.abs(a))


def softsign_slope(a: Any, xp: Any, *_: Any) -> Any:
    s = 1.0 / (1.0 + xp.abs(a))
    return s * s


def softplus(a: Any, xp: Any, *_: Any) -> Any:
    left = a <= 0.0
    return xp.log1p(xp.exp(xp.where(left, a, -a))) + xp.where(left, constant(a, 0.0, xp), a)


def swish(a: Any, xp: Any, *_: Any) -> Any:
    return a * sigmoid(a, xp)


def swish_slope(a: Any, xp: Any, *_: Any) -> Any:
    s = sigmoid(a, xp)
    return s * (1.0 + a * (1.0 - s))


def exponential(a: Any, xp: Any, *_: Any) -> Any:
    return xp.exp(a)


FUNCTIONS = {
    "sigmoid": Function(sigmoid, sigmoid_slope),
    "tanh": Function(tanh, tanh_slope),
    "relu": Function(relu, relu_slope),
    "affine": Function(affine, affine_slope, 1.0, 0.0),
    "leaky_relu": Function(leaky_relu, leaky_relu_slope, 0.01),
    "thresholded_relu": Function(thresholded_relu, thresholded_relu_slope, 1.0),
    "scaled_tanh": Function(scaled_tanh, scaled_tanh_slope, 1.0, 1.0),
    "hard_sigmoid": Function(hard_sigmoid, hard_sigmoid_slope, 0.2, 0.5),
    "elu": Function(elu, elu_slope, 1.0),
    "selu": Function(selu, selu_slope),
    "softsign": Function(softsign, softsign_slope),
    "softplus": Function(softplus, sigmoid),
    "swish": Function(swish, swish_slope),
    "exponential": Function(exponential, exponential),
}
ALIASES = {name.replace("_", ""): name for name in (*FUNCTIONS, "gelu")} | {"linear": "linear", "silu": "swish"}
# seen with Keras 3.15; its other functions have ONNX's constants, or none
KERAS = {"hard_sigmoid": (1.0 / 6.0, 0.5), "leaky_relu": (0.2,)}

SIGMOID, TANH = Activation("sigmoid"), Activation("tanh")
