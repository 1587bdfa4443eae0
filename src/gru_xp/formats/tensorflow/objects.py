"""The objects of a checkpoint and of a SavedModel: which variable is which attribute of which layer.

Both have a TrackableObjectGraph (trackable_object_graph.proto). A SavedModel of Keras's has a description of each layer
too: in keras_metadata.pb since TensorFlow 2.5, in saved_model.pb before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gru_xp.errors import FileFormatError
from gru_xp.formats.keras.layer import OTHER, RECURRENT, Step
from gru_xp.formats.keras.sources import LayerPlace
from gru_xp.formats.keras.walk import TRAINED
from gru_xp.stored import Tensor

from .wire import fields, number, piece, text

__all__ = ["GRAPH", "Node", "Objects", "described", "nodes_of"]

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
MOST_NODES = 1_000_000
MOST_JSON = 1 << 24
MOST_STEPS = 20_000_000  # from object to object
ARRAYS = ("kernel", "recurrent_kernel", "bias")
PARTS = ("cell", "forward_layer", "backward_layer", "cells")


@dataclass
class Node:
    """One object: its attributes that are objects, and, of a variable, its key in the index and its name."""

    children: dict[str, int] = field(default_factory=dict)
    key: str = ""
    name: str = ""


def nodes_of(graph: bytes) -> list[Node]:
    """The objects of a graph, the root first."""
    nodes = []
    for number_of, value in fields(memoryview(graph)):
        if number_of != 1:
            continue
        node = Node()
        for each, message in fields(piece(value)):
            if each == 1:
                child = dict(fields(piece(message)))
                node.children[text(child[2])] = number(child.get(1, 0))
            elif each == 2:
                attribute = dict(fields(piece(message)))
                if text(attribute[1]) == "VARIABLE_VALUE":
                    node.key, node.name = text(attribute[3]), text(attribute.get(2, memoryview(b"")))
        nodes.append(node)
        if len(nodes) > MOST_NODES:
            raise FileFormatError(f"expected at most {MOST_NODES} objects")
    return nodes


class Objects:
    """Arrays by the objects that hold them, as `Walk` asks for them. A place is the number of an object, -1 of none."""

    def __init__(self, nodes: Sequence[Node], tensors: Mapping[str, Tensor], layers: Mapping[int, str]):
        self.nodes = nodes
        names = Counter(node.name for node in nodes if node.key)
        self.names = {}  # of the arrays, by object: the variables' own where they are told apart by them
        for index, node in enumerate(nodes):
            if node.key in tensors:
                own = names[node.name] == 1 and not TRAINED.match(node.key)
                self.names[index] = node.name if own and node.name else node.key.removesuffix(VALUE)
        keys = {node.key for node in nodes}
        self.tensors = {name: tensors[nodes[index].key] for index, name in self.names.items()}
        self.tensors |= {key.removesuffix(VALUE): tensor for key, tensor in tensors.items() if key not in keys}
        self.layers = layers  # the names of the layers that are described
        self.places: dict[int | None, dict[str, int]] = {}
        self.owned: dict[int, set[str]] = {}
        self.left = MOST_STEPS

    def child(self, place: int | None, layer: LayerPlace) -> int:
        """By the names of layers, of those that the model at a place has; else, in the whole, of all that there are."""
        if place not in self.places:
            children = self._node(place or 0).children
            found = {
                at: self.layers[at] for name, at in children.items() if name.startswith("layer") and at in self.layers
            }
            self.places[place] = {name: at for at, name in (found or (self.layers if place is None else {})).items()}
        return self.places[place].get(layer.name, -1)

    def part(self, place: int, step: Step) -> int:
        return self._node(place).children.get(step if isinstance(step, str) else str(step[0]), -1)

    def arrays(self, place: int) -> Sequence[str]:
        children = self._node(place).children
        return [self.names[children[name]] for name in ARRAYS if children.get(name) in self.names]

    def below(self, place: int) -> Iterable[str]:
        return [self.names[at] for at in self._reached(place, lambda part: True) if at in self.names]

    def own(self, place: int, name: str) -> bool:
        if place not in self.owned:
            objects = self._reached(place, lambda part: part in PARTS or part.isdecimal())
            self.owned[place] = {array for at in objects for array in self.arrays(at)}
        return name in self.owned[place]

    def _reached(self, place: int, through: Callable[[str], bool]) -> list[int]:
        """The objects that a place leads to, itself the first."""
        reached = {place: None}
        queue = [place]
        for at in queue:
            for part, child in self._node(at).children.items():
                self.left -= 1
                if child not in reached and through(part):
                    reached[child] = None
                    queue.append(child)
        if self.left < 0:
            raise FileFormatError("asks for more than its objects can hold")
        return list(reached)

    def _node(self, place: int) -> Node:
        return self.nodes[place] if 0 <= place < len(self.nodes) else Node()


# ---- what Keras wrote beside it --------------------------------------------------------------------------------------


def described(metadata: Iterator[tuple[int, str, str]]) -> tuple[Any, dict[int, str]]:
    """The description of a model, and the names of its layers by object; None of a model that has none.

    `metadata` has of each object its number, its path ("root.layer-1") and Keras's JSON.
    """
    found: dict[int, dict[str, Any]] = {}
    paths: dict[int, str] = {}
    for number_of, path, raw in metadata:
        if len(raw) > MOST_JSON:
            raise FileFormatError(f"expected at most {MOST_JSON} bytes of a layer's description")
        entry = json.loads(raw) if raw.startswith("{") else {}
        if isinstance(entry.get("config"), dict) and "class_name" in entry:
            found[number_of], paths[number_of] = entry, path
    names = {at: str(entry.get("name") or entry["config"].get("name")) for at, entry in found.items()}
    root = found.get(0)
    if root is not None and isinstance(root["config"].get("layers"), list):
        return root, names
    layers, own = [], {}
    recurrent = {paths[at]: at for at, entry in found.items() if entry["class_name"] in (*RECURRENT, *OTHER)}
    for path, at in recurrent.items():  # of a model of somebody's own: those that are in no other
        steps = path.split(".")
        if not any(".".join(steps[:count]) in recurrent for count in range(1, len(steps))):
            own[at] = ".".join(steps[1:]) or names[at]
            layers.append(found[at] | {"name": own[at], "inbound_nodes": []})
    return ({"class_name": "Functional", "config": {"layers": layers}} if layers else None), own
