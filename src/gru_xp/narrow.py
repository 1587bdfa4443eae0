"""Weights stored in 8 or 16 bits: what is known of them beside the numbers that they stand for.

int8 is symmetric, with one scale for each row of W_ih and W_hh, so for each gate and unit: W = scale * q with the
integers q from -127 to 127. Biases, gates, state and sums are float32. Everywhere the weights are kept as the float32
numbers that they mean, which is exact in all three formats: from those and the scales come the integers again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from .params import CellParams, Params

__all__ = ["ACTIVATIONS", "WEIGHTS", "Activations", "Narrow", "Weights", "integers"]

Weights: TypeAlias = Literal["int8", "bfloat16", "float16"]
Activations: TypeAlias = Literal["float32", "int8"]
WEIGHTS, ACTIVATIONS = get_args(Weights), get_args(Activations)


@dataclass(frozen=True, eq=False)
class Narrow:
    """How weights are stored, and what the products round."""

    weights: Weights
    #: "int8": x and the state are rounded to 8 bits before each product, see `integers`
    activations: Activations = "float32"
    #: for int8: `CellParams` of scales (3H,) of W_ih and W_hh, without biases
    scales: Params | None = None

    def __str__(self) -> str:
        return f"{self.weights} weights{', int8 activations' if self.activations == 'int8' else ''}"

    @property
    def kind(self) -> tuple[str, str]:
        """What decides who computes."""
        return self.weights, self.activations

    def scales_of(self, layer: int, direction: int) -> CellParams | None:
        """The scales of one cell; None in 16 bits."""
        return None if self.scales is None else self.scales[layer][direction]


def integers(W: Any, scale: Any, xp: Any) -> Any:
    """The whole numbers q (M, K), as floats, of W = scale * q."""
    return xp.round(W / xp.where(scale > 0, scale, xp.ones_like(scale))[:, None])
