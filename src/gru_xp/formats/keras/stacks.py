"""Which of a model's layers lie on one another, and what else they are given: a mask, a first state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from gru_xp.errors import ConversionError
from gru_xp.stored import Note, Report, StoredGRU, stacked

from .dialects import Dialect
from .layer import kind_of
from .options import IN_TRAINING

__all__ = ["Wiring", "layers_of", "name_of", "stacks_of", "wiring_of"]


class Wiring(NamedTuple):
    """By the names of layers."""

    links: Mapping[str, str] = {}  # of each that reads just one other, and is the only one to do so, the one it reads
    masks: Mapping[str, str] = {}  # what makes the mask of those that are given one
    states: frozenset[str] = frozenset()  # those that are given a first state
    mask: str = ""  # what makes the mask of the model's output


# the layers that hand on the mask that they are given
PASSING = frozenset(
    (
        *("Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Bidirectional", "Dense"),
        *("Dropout", "ELU", "GRU", "GaussianDropout", "GaussianNoise", "GroupNormalization", "Identity", "InputLayer"),
        *("LSTM", "LayerNormalization", "LeakyReLU", "Normalization", "PReLU", "RNN", "ReLU", "Rescaling", "SimpleRNN"),
        *("Softmax", "SpatialDropout1D", "TimeDistributed", "UnitNormalization"),
    )
)
MERGING = frozenset(("Add", "Average", "Concatenate", "Maximum", "Merge", "Minimum", "Multiply", "Subtract"))
MASK = Note("changed", "the mask", "the model makes one, here every step counts: pass it as mask")
STATE = Note("changed", "the first state", "the model computes it, here it is zero: pass it as h0")


def layers_of(entry: Any) -> list[Any] | None:
    """The described layers of a described model; None of what is no model."""
    config = entry.get("config") if isinstance(entry, Mapping) else None
    layers = config.get("layers") if isinstance(config, Mapping) else config  # Sequential's, before Keras 2.2.3
    return layers if isinstance(layers, list) else None


def name_of(layer: Mapping[str, Any]) -> str:
    """The name of a described layer; "" for a Sequential in another as it was described before Keras 2.2.3."""
    config = layer.get("config")
    return str(layer.get("name") or (config.get("name") if isinstance(config, Mapping) else None) or "")


def wiring_of(entry: Mapping[str, Any], dialect: Dialect, mask: str = "") -> Wiring:
    """How a described model is wired; `mask` is what makes the mask of its input."""
    layers = layers_of(entry) or []
    names = [name_of(layer) for layer in layers]
    masks: dict[str, str] = {}
    if entry.get("class_name") == "Sequential":
        for name, layer in zip(names, layers, strict=True):
            if mask:
                masks[name] = mask
            mask = _mask_after(layer, dialect, name, mask)
        return Wiring(dict(zip(names[1:], names[:-1], strict=True)), masks, mask=mask)
    reads: dict[str, list[str]] = {}
    states = set()
    older = False
    for name, layer in zip(names, layers, strict=True):
        reads[name] = []
        for call in layer.get("inbound_nodes") or ():
            read = _Read.of(call)
            older = older or not isinstance(call, Mapping)
            made = next(iter(read.masks), "" if older else mask)
            if made:
                masks[name] = made
            if read.states:
                states.add(name)
            reads[name] += [*read.inputs, *read.states]
    after: dict[str, str] = {}
    if older:
        masks, after = _spread(dict(zip(names, layers, strict=True)), dialect, reads, masks, mask)
    readers = Counter(source for sources in reads.values() for source in sources)
    links = {name: sources[0] for name, sources in reads.items() if len(sources) == 1 and readers[sources[0]] == 1}
    outputs = list(_listed(entry["config"].get("output_layers")))[:1]
    return Wiring(links, masks, frozenset(states), "".join(after.get(name, "") for name in outputs))


class _Read(NamedTuple):
    """The layers whose outputs stand in the arguments of one call."""

    inputs: Sequence[str]
    states: Sequence[str]
    masks: Sequence[str]

    @classmethod
    def of(cls, call: Any) -> _Read:
        """Of a call as Keras 3 describes it, or as the older ones do: its inputs, the first with the other arguments.

        The older ones count the first states of a recurrent layer among its inputs.
        """
        if isinstance(call, Mapping):
            options = dict(call.get("kwargs") or {})
            masks, states = (
                list(_tensors(options.pop("mask", None))),
                list(_tensors(options.pop("initial_state", None))),
            )
            return cls([*_tensors(call.get("args")), *_tensors(options)], states, masks)
        nodes = [node for node in call if isinstance(node, list) and node]
        options = {}
        for node in nodes:
            options |= node[3] if len(node) > 3 and isinstance(node[3], Mapping) else {}
        mask, state = options.pop("mask", None), options.pop("initial_state", None)
        names = [str(node[0]) for node in nodes]
        return cls([*names[:1], *_listed(options)], [*names[1:], *_listed(state)], [*_listed(mask)])


def _tensors(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            yield str(value["config"]["keras_history"][0])
            return
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _listed(value: Any) -> Iterator[str]:
    """Of what is described as ["layer", 0, 0], in lists and mappings."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and all(type(each) is int for each in value[1:3]):
            yield value[0]
            return
        for each in value:
            yield from _listed(each)


def _spread(
    layers: Mapping[str, Any],
    dialect: Dialect,
    reads: Mapping[str, Sequence[str]],
    given: Mapping[str, str],
    outer: str,
) -> tuple[dict[str, str], dict[str, str]]:
    """The masks that layers are given, which Keras 1 and 2 do not describe, and those that they make, by name."""
    masks, after = dict(given), dict[str, str]()
    entered: set[str] = set()
    for start in layers:
        stack = [start]
        while stack:  # each layer once, after those that it reads
            name = stack[-1]
            before = [source for source in reads[name] if source in layers and source not in after]
            if before and name not in entered:
                entered.add(name)
                stack += before
                continue
            stack.pop()
            if name in after:
                continue
            layer = layers[name]
            sources = reads[name] if kind_of(layer) in MERGING else reads[name][:1]
            mask = masks.get(name) or next(filter(None, (after.get(source, "") for source in sources)), "")
            if mask:
                masks[name] = mask
            after[name] = outer if kind_of(layer) == "InputLayer" else _mask_after(layer, dialect, name, mask)
    return masks, after


def _mask_after(layer: Mapping[str, Any], dialect: Dialect, name: str, mask: str) -> str:
    """What makes the mask of a layer's output, given that of its input."""
    kind = kind_of(layer)
    if kind == "Masking" or (kind == "Embedding" and layer["config"].get("mask_zero")):
        return name
    if layers_of(layer) is not None and kind not in MERGING:
        return wiring_of(layer, dialect, mask).mask if dialect.major < 3 else ""  # seen with Keras 3.15: none
    return mask if kind in PASSING or kind in MERGING else ""


def stacks_of(found: dict[str, StoredGRU], wiring: Wiring, layers: Sequence[Mapping[str, Any]]) -> Iterator[StoredGRU]:
    """The GRUs, those together that lie on one another with nothing but one rate of dropout between them."""
    rates = {
        name_of(layer): layer["config"].get("rate", layer["config"].get("p"))  # p in Keras 1
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
    if not all(_is_harmless(note) for note in lower.report.notes):  # its output is not y
        return False
    try:
        stacked([lower, upper])
    except ConversionError:
        return False
    return True


def _is_harmless(note: Note) -> bool:
    """Whether y is the layer's output all the same."""
    return (
        note.fate in ("exact", "assumed")
        or note == MASK
        or note.why == IN_TRAINING
        or note.what.startswith(("the policy", "unroll"))
    )
