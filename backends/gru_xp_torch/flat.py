"""A call as what an operator of PyTorch takes and gives: lists of tensors and a few numbers."""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import Any, NamedTuple

from gru_xp.activations import Activation
from gru_xp.params import CellParams, GRUSpec, LayerTape, Params

__all__ = ["Sizes", "flat_params", "flat_tape", "params_of", "spec_of", "tapes_of"]

GATES = 5  # h_prev, r, z, n, u


class Sizes(NamedTuple):
    """What the lists alone do not tell."""

    D: int
    bias: bool
    spec: str  # its text, because an operator takes no objects other than tensors


@cache
def spec_of(text: str) -> GRUSpec:
    """The spec with that `text`."""
    reset_after, f, f_alpha, f_beta, g, g_alpha, g_beta, clip, reverse, padding = text.split()

    def number(word: str) -> float | None:
        return None if word == "None" else float(word)

    return GRUSpec(
        reset_after == "True",
        Activation(f, number(f_alpha), number(f_beta)),
        Activation(g, number(g_alpha), number(g_beta)),
        number(clip),
        reverse == "True",
        "hold" if padding == "hold" else "zero",
    )


def params_of(weights: Any, sizes: Sizes) -> Params:
    """A flat list of weights as layers of directions."""
    each = 4 if sizes.bias else 2
    cells = [CellParams(*weights[first : first + each]) for first in range(0, len(weights), each)]
    return tuple(tuple(cells[first : first + sizes.D]) for first in range(0, len(cells), sizes.D))


def flat_params(params: Params) -> list[Any]:
    """The weights in a flat list."""
    return [a for layer in params for w in layer for a in w if a is not None]


def flat_tape(layers: tuple[tuple[LayerTape, ...], ...]) -> list[Any]:
    """Of each layer h_prev, r, z, n, u in each direction, and what each but the first layer read."""
    saved = [a for layer in layers for tape in layer for a in (tape.h_prev, tape.r, tape.z, tape.n, tape.u)]
    return [*saved, *(layer[0].x for layer in layers[1:])]


def tapes_of(
    x: Any, tape: Any, weights: Any, valid: Any, resets: Any, sizes: Sizes
) -> tuple[tuple[LayerTape, ...], ...]:
    """The layers' tapes from `flat_tape`; x (T, N, I) is zero in the padding."""
    params, spec = params_of(weights, sizes), spec_of(sizes.spec)
    read = iter([x, *tape[GATES * sizes.D * len(params) :]])
    saved = iter(tape)

    def layer_tape(x: Any, w: CellParams, d: int) -> LayerTape:
        h_prev, r, z, n, u = islice(saved, GATES)
        return LayerTape(x, h_prev, r, z, n, u, w, valid, resets, spec, d == 1 or spec.reverse)

    return tuple(tuple(layer_tape(x, w, d) for d, w in enumerate(layer)) for x, layer in zip(read, params, strict=True))
