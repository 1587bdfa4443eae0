"""Which of a model's layers lie on one another, and what else they are given: a mask, a first state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from gru_xp.errors import ConversionError
from gru_xp.stored import Note, Report, StoredGRU, stacked

from .layer import kind_of

__all__ = ["Wiring", "stacks_of", "wiring_of"]


class Wiring(NamedTuple):
    """By the names of layers."""

    links: Mapping[str, str] = {}  # of each that reads just one other, and is the only one to do so, the one it reads
    masks: Mapping[str, str] = {}  # what makes the mask of those that are given one
    states: frozenset[str] = frozenset()  # those that are given a first state


# the layers that hand on the mask that they are given
PASSING = frozenset(
    (
        *("Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Bidirectional", "Dense"),
        *("Dropout", "ELU", "GRU", "GaussianDropout", "GaussianNoise", "GroupNormalization", "Identity", "InputLayer"),
        *("LSTM", "LayerNormalization", "LeakyReLU", "Normalization", "PReLU", "RNN", "ReLU", "Rescaling", "SimpleRNN"),
        *("Softmax", "SpatialDropout1D", "TimeDistributed", "UnitNormalization"),
    )
)
MASK = Note("changed", "the mask", "the model makes one, here every step counts: pass it as mask")
STATE = Note("changed", "the first state", "the model computes it, here it is zero: pass it as h0")


def wiring_of(entry: Mapping[str, Any], mask: str = "") -> Wiring:
    """How a described model is wired; `mask` is what makes the mask of its input."""
    layers = entry["config"]["layers"]
    names = [str(layer["config"].get("name")) for layer in layers]
    masks: dict[str, str] = {}
    if entry.get("class_name") == "Sequential":
        for name, layer in zip(names, layers, strict=True):
            if mask:
                masks[name] = mask
            kind = kind_of(layer)
            if kind == "Masking" or (kind == "Embedding" and layer["config"].get("mask_zero")):
                mask = name
            elif kind not in PASSING:
                mask = ""
        return Wiring(dict(zip(names[1:], names[:-1], strict=True)), masks)
    reads: dict[str, list[str]] = {}
    states = set()
    for name, layer in zip(names, layers, strict=True):
        reads[name] = []
        for call in layer.get("inbound_nodes") or ():
            if not isinstance(call, Mapping):  # as Keras 2 wrote it
                continue
            options = dict(call.get("kwargs") or {})
            made = next(_layers_in(options.pop("mask", None)), mask)
            if made:
                masks[name] = made
            if next(_layers_in(options.get("initial_state")), None) is not None:
                states.add(name)
            reads[name] += [*_layers_in(call.get("args")), *_layers_in(options)]
    readers = Counter(source for sources in reads.values() for source in sources)
    links = {name: sources[0] for name, sources in reads.items() if len(sources) == 1 and readers[sources[0]] == 1}
    return Wiring(links, masks, frozenset(states))


def _layers_in(value: Any) -> Iterator[str]:
    """The layers whose outputs stand in the arguments of a call."""
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            yield str(value["config"]["keras_history"][0])
            return
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _layers_in(each)


def stacks_of(found: dict[str, StoredGRU], wiring: Wiring, layers: Sequence[Mapping[str, Any]]) -> Iterator[StoredGRU]:
    """The GRUs, those together that lie on one another with nothing but one rate of dropout between them."""
    rates = {
        str(layer["config"].get("name")): layer["config"].get("rate")
        for layer in layers
        if kind_of(layer) == "Dropout" and layer["config"].get("noise_shape") is None
    }
    towers: list[tuple[list[StoredGRU], set[float]]] = []
    top: dict[str, int] = {}  # the tower that a layer is the top of
    for name, gru in found.items():
        below, rate = wiring.links.get(name), 0.0
        if below in rates:
            below, rate = wiring.links.get(str(below)), float(rates[str(below)])
        tower = top.get(str(below))
        mask = wiring.masks.get(name)
        if tower is not None and 0.0 <= rate <= 1.0 and mask == wiring.masks.get(str(below)):
            grus, between = towers[tower]
            if len(between | {rate}) == 1 and _fits(grus[-1], gru):
                grus.append(gru)
                between.add(rate)
                top[name] = tower
                continue
        top[name] = len(towers)
        given = ((MASK,) if mask else ()) + ((STATE,) if name in wiring.states else ())
        towers.append(([replace(gru, report=gru.report + Report(given))], set()))
    for grus, between in towers:
        yield stacked(grus, between.pop() if between else 0.0) if len(grus) > 1 else grus[0]


def _fits(lower: StoredGRU, upper: StoredGRU) -> bool:
    plain = all(note.fate == "exact" or note == MASK or note.what.startswith(HARMLESS) for note in lower.report.notes)
    if not plain:  # its output is not y
        return False
    try:
        stacked([lower, upper])
    except ConversionError:
        return False
    return True


HARMLESS = ("dropout", "recurrent_dropout", "the policy", "unroll")
