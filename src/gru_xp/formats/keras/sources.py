"""Where in a file the arrays of a described layer are: by Keras's newer paths, or by the names of variables.

`Paths` are those of .keras and .weights.h5: "layers/gru_1/cell/vars/0", which follow from the classes of the layers.
`Names` are those of the older .h5 and of TensorFlow.js: a list of variables for each layer of the model, in order.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any, NamedTuple, Protocol

from gru_xp.formats.hdf5 import Stored
from gru_xp.stored import Tensor

from .layer import Step

__all__ = ["LayerPlace", "Names", "Paths", "Source", "snake_case"]


class LayerPlace(NamedTuple):
    """Which of the layers of a model."""

    name: str
    kind: str  # its class
    earlier: int  # how many of this class are before it


class Source(Protocol):
    """Arrays by name, and where those of a layer are. A place is whatever a source makes of it; None is the model's."""

    @property
    def tensors(self) -> Mapping[str, Tensor]: ...

    def child(self, place: Any, layer: LayerPlace) -> Any:
        """The place of a layer in the model at a place."""

    def part(self, place: Any, step: Step) -> Any:
        """The place of a part of the layer at a place."""

    def arrays(self, place: Any) -> Sequence[str]:
        """The names of the arrays of the cell at a place, in Keras's order."""

    def below(self, place: Any) -> Iterable[str]:
        """The names of all arrays of the layer at a place."""

    def own(self, place: Any, name: str) -> bool:
        """Whether an array of the layer at a place is of this layer itself, not of one that it holds."""


class Paths:
    """Arrays by Keras's paths since 2.12."""

    LAYERS = ("layers", "_layer_checkpoint_dependencies")  # where a model has its layers; the latter is Keras 2.12's
    OWN = ("vars", "cell", "forward_layer", "backward_layer")  # where a recurrent layer has its own arrays

    def __init__(self, stored: Stored):
        self.tensors = {path.replace("\\", "/"): tensor for path, tensor in stored.datasets.items()}  # of Windows
        self.sorted = sorted(self.tensors)
        self.groups: dict[str, list[str]] = {}
        for path in self.sorted:
            self.groups.setdefault(path.rpartition("/")[0], []).append(path)
        self.numbered: dict[tuple[str, str], list[str]] = {}  # groups by parent and class, in the order of numbers
        found = [re.fullmatch(r"((?:.*/)?)([^/]*?)(?:_(\d{1,6}))?", path.replace("\\", "/")) for path in stored.groups]
        for match in sorted(filter(None, found), key=lambda match: int(match[3] or 0)):
            self.numbered.setdefault((match[1], match[2]), []).append(match[0])
        self.older = any(path.startswith(self.LAYERS[1]) for path in self.tensors)

    def child(self, place: str | None, layer: LayerPlace) -> str:
        stem, above = snake_case(layer.kind), f"{place}/" if place else ""
        if self.older:  # its numbers have gaps
            all_of_kind = self.numbered.get((f"{above}{self.LAYERS[1]}/", stem), [])
            return all_of_kind[layer.earlier] if layer.earlier < len(all_of_kind) else f"{above}{self.LAYERS[1]}/?"
        return f"{above}{self.LAYERS[0]}/{stem}{f'_{layer.earlier}' if layer.earlier else ''}"

    def part(self, place: str, step: Step) -> str:
        if isinstance(step, tuple):
            step = f"{snake_case('GRUCell')}_{step[0]}" if step[0] else snake_case("GRUCell")
        return f"{place}/{step}"

    def arrays(self, place: str) -> Sequence[str]:
        return self.groups.get(f"{place}/vars", [])

    def below(self, place: str) -> Iterable[str]:
        following = islice(self.sorted, bisect_left(self.sorted, f"{place}/"), None)
        return takewhile(lambda name: name.startswith(f"{place}/"), following)

    def own(self, place: str, name: str) -> bool:
        return name.removeprefix(f"{place}/").partition("/")[0] in self.OWN


class Names:
    """Arrays by variables' names: "bidirectional/forward_gru/gru_cell_1/kernel:0", of Keras 1 "gru_1_W_z"."""

    def __init__(self, tensors: Mapping[str, Tensor], layers: Mapping[str, Sequence[str]]):
        self.tensors = tensors
        self.layers = layers  # the arrays of each layer of the model, in Keras's order
        self.inner: dict[str, dict[str, list[str]]] = {}  # and of each layer in one of those
        for outer, names in layers.items():
            for name in names:
                for inner in _layers_of(name):
                    self.inner.setdefault(inner, {}).setdefault(outer, []).append(name)

    @classmethod
    def of_hdf5(cls, stored: Stored, root: str) -> Names:
        """Those of an older .h5, where each layer's group has a list of its variables."""
        above = f"{root}/" if root else ""
        layers = {}
        for group, texts in stored.attributes.items():
            parent, _, layer = group.rpartition("/")
            if parent == root and group:
                names = [name for key in _chunked(texts, "weight_names") for name in key]
                paths = dict.fromkeys(f"{above}{layer}/{name}" for name in names)
                layers[layer] = [path for path in paths if path in stored.datasets]
        return cls(stored.datasets, layers)

    @classmethod
    def of_variables(cls, tensors: Mapping[str, Tensor]) -> Names:
        """Those of TensorFlow.js, by the first part of their names."""
        layers: dict[str, list[str]] = {}
        for name in tensors:
            layers.setdefault(name.partition("/")[0], []).append(name)
        return cls(tensors, layers)

    def child(self, place: _Variables | None, layer: LayerPlace) -> _Variables:
        if place is None:
            return _Variables(layer.name, layer.name, self.layers.get(layer.name, ()))
        found = self.inner.get(layer.name, {})
        outer = place.outer if place.outer in found else layer.name
        if outer not in self.layers and len(found) == 1:  # a model that was described without its name
            (outer,) = found
        return _Variables(outer, layer.name, found.get(outer, ()))

    def part(self, place: _Variables, step: Step) -> _Variables:
        count = len(place.names)
        first, last = 0, count
        if step == "forward_layer":
            last = count // 2
        elif step == "backward_layer":
            first = count // 2
        elif isinstance(step, tuple):
            first, last = step[0] * count // step[1], (step[0] + 1) * count // step[1]
        return place._replace(names=place.names[first:last])

    def arrays(self, place: _Variables) -> Sequence[str]:
        return place.names

    def below(self, place: _Variables) -> Iterable[str]:
        return place.names

    def own(self, place: _Variables, name: str) -> bool:
        """Of a layer "block" those of "block/gru_cell", not those of "block/gru/gru_cell", a layer that it holds."""
        parts = name.split("/")[:-1]
        depth = max((index for index, part in enumerate(parts) if part == place.layer), default=len(parts))
        return all(CELLS.fullmatch(part) for part in parts[depth + 1 :])


class _Variables(NamedTuple):
    """Of the layer of that name, in Keras's order."""

    outer: str  # the layer of the whole model that it is, or is in
    layer: str
    names: Sequence[str]


CELLS = re.compile(r"(?:gru_cell|stacked_rnn_cells|forward_.*|backward_.*)(?:_\d+)?")


KERAS_1 = re.compile(r"(?:forward_|backward_)?(.+)_[WUb](?:_[zrh])?(?::0)?")


def _layers_of(name: str) -> set[str]:
    """The names of the layers that a variable may be of: each is a part of its name."""
    *parts, last = name.split("/")
    keras_1 = KERAS_1.fullmatch(last)
    return {*parts, keras_1[1]} if keras_1 else {*parts}


def _chunked(texts: Mapping[str, str | list[str]], name: str) -> list[list[str]]:
    """An attribute that Keras has split into name0, name1, ... where it was too long for HDF5."""
    keys = [name] if name in texts else [key for key in texts if re.fullmatch(rf"{name}\d+", key)]
    keys.sort(key=lambda key: int(key.removeprefix(name) or 0))
    return [value for key in keys if isinstance(value := texts[key], list)]


def snake_case(name: str) -> str:
    """How Keras names the arrays of a layer: "GRUCell" -> "gru_cell"."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
