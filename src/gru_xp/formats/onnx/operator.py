"""ONNX's operator GRU: its attributes and weights for ours, which files are written with and `gru_xp_ndonnx` traces.

ONNX stacks the gates z, r, h; W is (D, 3H, I), R is (D, 3H, H), B is (D, 6H), the biases of the input first.
`linear_before_reset` 1 is `reset_after`, and 0, the default, is not. Nothing here needs the package onnx.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gru_xp.activations import SIGMOID, TANH, Activation
from gru_xp.errors import ConversionError
from gru_xp.formats.layouts import swapped
from gru_xp.params import CellParams, GRUSpec

__all__ = ["ACTIVATIONS", "DIRECTIONS", "attributes", "single", "stacked"]

DIRECTIONS = ("forward", "reverse", "bidirectional")
#: ONNX's names, and which constants each has; those without an operator in ONNX have no default
ACTIVATIONS = {
    "Sigmoid": "",
    "Tanh": "",
    "Relu": "",
    "LeakyRelu": "alpha",
    "ThresholdedRelu": "alpha",
    "HardSigmoid": "alpha beta",
    "Elu": "alpha",
    "Softsign": "",
    "Softplus": "",
    "Affine": "alpha beta required",
    "ScaledTanh": "alpha beta required",
}


def stacked(directions: tuple[CellParams, ...], xp: Any = np) -> list[Any]:
    """W (D, 3H, I), R (D, 3H, H) and, with biases, B (D, 6H), of a layer in a namespace of the array API."""
    W, R = (xp.stack([swapped(w[index], xp) for w in directions]) for index in (0, 1))
    if directions[0].b_ih is None:
        return [W, R]
    return [W, R, xp.stack([xp.concat([swapped(w.b_ih, xp), swapped(w.b_hh, xp)]) for w in directions])]


def attributes(spec: GRUSpec, H: int, D: int) -> dict[str, Any]:
    """The attributes of a node by name; a `ConversionError` where it lacks an activation."""
    found: dict[str, Any] = {
        "hidden_size": H,
        "direction": "bidirectional" if D == 2 else "reverse" if spec.reverse else "forward",
        "linear_before_reset": int(spec.reset_after),
    }
    if spec.clip is not None:
        found["clip"] = spec.clip
    used = (spec.gate_activation, spec.candidate_activation)
    if used != (SIGMOID, TANH):
        found["activations"] = [_name(each) for each in used] * D
        for letter in ("alpha", "beta"):
            constants = [getattr(each, letter) for each in used if letter in ACTIVATIONS[_name(each)].split()] * D
            if constants:
                found[f"activation_{letter}"] = constants
    return found


def single(value: Any) -> float:
    """The shortest decimal that a float32 stands for: 0.2, where its exact value is 0.20000000298."""
    return float(str(np.float32(value)))


def _name(activation: Activation) -> str:
    """ONNX's name of an activation."""
    name = "".join(part.capitalize() for part in activation.name.split("_"))
    if name not in ACTIVATIONS:
        raise ConversionError(f"{activation}: ONNX's GRU has only {', '.join(ACTIVATIONS)}")
    return name
