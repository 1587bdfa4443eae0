"""How a program calls `aten::gru`: the options of a GRU that its arrays and their names do not say."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gru_xp.stored import Tensor

__all__ = ["CELL", "CONSTANTS", "MOVES", "ZEROS", "Call", "joined", "leaves", "named_by_calls"]

CONSTANTS = "constants.c"  # the names of arrays that are constants of a program
MOST_LAYERS = 1000
# What makes a first state of zero, and what only moves the numbers of its first argument about.
ZEROS = ("zeros", "zeros_like", "new_zeros")
MOVES = (
    *("clone", "contiguous", "detach", "expand", "expand_as", "index_select", "permute", "repeat", "reshape", "select"),
    *("slice", "squeeze", "to", "transpose", "unsqueeze", "view"),
)
CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True)
class Call:
    """One call of `aten::gru(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)`.

    `aten::gru_cell` has no options, and for packed sequences `aten::gru` has no `batch_first`.
    """

    weights: tuple[str, ...]  # the arrays, by their names in the file, in the order of the layers
    has_biases: bool = True
    num_layers: int = 1
    dropout: float = 0.0
    train: bool = False  # whether the program drops out in each call
    bidirectional: bool = False
    batch_first: bool | None = None
    is_cell: bool = False
    state: str = ""  # what hx is, where it is neither an argument nor zero: "is computed"
    hint: str = ""  # what it may be called, where its arrays have no names
    unlike: str = ""  # why it is no GRU of PyTorch's


def leaves(call: Call) -> list[str]:
    """PyTorch's names of the arrays that a call takes, without the module's."""
    fields = CELL if call.has_biases else CELL[:2]
    if call.is_cell:
        return list(fields)
    layers = range(min(call.num_layers, MOST_LAYERS))
    ends = [f"_l{layer}{end}" for layer in layers for end in ("", "_reverse")[: 1 + call.bidirectional]]
    return [f"{field}{end}" for end in ends for field in fields]


def named_by_calls(
    calls: Sequence[Call], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, list[Call]]]:
    """The arrays under PyTorch's names, and the calls by the module that they belong to.

    Arrays that have no such names, as the constants of a frozen program, are given them.
    """
    named = dict(tensors)
    by_place: dict[str, list[Call]] = {}
    made: dict[tuple[str, ...], str] = {}
    taken = {name.rpartition(".")[0] for name in tensors}
    for call in calls:
        if len(call.weights) != len(leaves(call)) or not all(name in tensors for name in call.weights):
            continue  # computed, as weight_norm does, or no GRU
        place = _place_of(call)
        if place is None and call.weights not in made:
            made[call.weights] = _free(call.hint or ("cell" if call.is_cell else "gru"), taken)
            taken.add(made[call.weights])
        place = made[call.weights] if place is None else place
        for leaf, name in zip(leaves(call), call.weights, strict=True):
            named[joined(place, leaf)] = tensors[name]
            if name.startswith(CONSTANTS):
                named.pop(name, None)
        by_place.setdefault(place, []).append(call)
    return named, by_place


def _place_of(call: Call) -> str | None:
    """The module whose arrays it takes under their usual names; some may be another's, which it shares."""
    split = [name.rpartition(".") for name in call.weights]
    places = [place for (place, _, leaf), usual in zip(split, leaves(call), strict=True) if leaf == usual]
    return max(places, key=places.count, default=None)


def _free(wanted: str, taken: Collection[str]) -> str:
    number, name = 1, wanted
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def joined(path: str, key: str) -> str:
    """The name of what is in something that has a name."""
    return f"{path}.{key}" if path else key
