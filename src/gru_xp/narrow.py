"""Weights stored in 8 or 16 bits: what is known of them beside the numbers that they stand for.

int8 is symmetric, with one scale for each row of W_ih and W_hh, so for each gate and unit: W = scale * q with the
integers q from -127 to 127; files of others may hold -128 too, beside float activations. Biases, gates, state and sums
are float32. Everywhere the weights are kept as the float32 numbers that they mean, which is exact in all three formats:
from those and the scales come the integers again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from .params import CellParams, Params

__all__ = ["ACTIVATIONS", "WEIGHTS", "Activations", "Narrow", "Weights", "are_int8", "integers", "narrow_stack"]

Weights: TypeAlias = Literal["int8", "bfloat16", "float16"]
Activations: TypeAlias = Literal["float32", "int8"]
WEIGHTS, ACTIVATIONS = get_args(Weights), get_args(Activations)


@dataclass(frozen=True, eq=False)
class Narrow:
    """How weights are stored, and what the products round."""

    weights: Weights
    #: "int8": x and the state are rounded to 8 bits before each product, see `integers`
    activations: Activations = "float32"
    #: for int8: `CellParams` of scales (3H,) of W_ih and W_hh, without biases; of None for layers that are kept
    scales: Params | None = None
    #: the layers whose weights are float32 as they were
    kept: tuple[int, ...] = ()

    def __str__(self) -> str:
        kept = ", ".join(map(str, self.kept))
        kept = f", layer{'s' * (len(self.kept) > 1)} {kept} in float32" if kept else ""
        return f"{self.weights} weights{', int8 activations' if self.activations == 'int8' else ''}{kept}"

    @property
    def kind(self) -> tuple[str, str]:
        """What decides who computes."""
        return self.weights, self.activations

    def scales_of(self, layer: int, direction: int) -> CellParams | None:
        """The scales of one cell; None in 16 bits."""
        return None if self.scales is None or layer in self.kept else self.scales[layer][direction]

    def of_layers(self, first: int, last: int) -> Narrow | None:
        """That of some of the layers; None if all of them are kept."""
        kept = tuple(layer - first for layer in self.kept if first <= layer < last)
        if len(kept) == last - first:
            return None
        return replace(self, scales=None if self.scales is None else self.scales[first:last], kept=kept)


def narrow_stack(layers: Sequence[tuple[Narrow | None, int]]) -> Narrow | None:
    """That of a stack, of those of its parts and the directions of each, which has one layer; None is float32.

    It is None, too, where the parts are stored in several ways.
    """
    kinds = {narrow.kind: narrow for narrow, _ in layers if narrow is not None}
    if len(kinds) != 1:
        return None
    (one,) = kinds.values()
    kept = tuple(index for index, (narrow, _) in enumerate(layers) if narrow is None)
    if one.scales is None:
        return replace(one, kept=kept)
    scales = tuple(
        (CellParams(None, None),) * D if narrow is None or narrow.scales is None else narrow.scales[0]
        for narrow, D in layers
    )
    return replace(one, scales=scales, kept=kept)


def are_int8(W: Any, scale: Any, xp: Any) -> bool:
    """Whether W (M, K) is int8 numbers times the scales (M,), bit for bit."""
    if not bool(xp.all((scale >= 0) & xp.isfinite(scale))):
        return False
    q = integers(W, scale, xp)
    return bool(xp.all((q >= -128) & (q <= 127) & (q * scale[:, None] == W)))


def integers(W: Any, scale: Any, xp: Any) -> Any:
    """The whole numbers q (M, K), as floats and none of them -0.0, of W = scale * q."""
    q = xp.round(W / xp.where(scale > 0, scale, xp.ones_like(scale))[:, None])
    return xp.where(q == 0, xp.zeros_like(q), q)
