"""The GRUs in the live layers and models of Keras 3 and of tf_keras, which is Keras 2."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from gru_xp.errors import GRUError
from gru_xp.formats.trees import library_of
from gru_xp.stored import Contents, Refusal, StoredGRU, Tensor

from .dialects import KERAS_3, TENSORFLOW_2, dialect_of
from .layer import OTHER, RECURRENT, Step, gru_of
from .stacks import Wiring, stacks_of, wiring_of

__all__ = ["Live"]


class Live:
    """The GRUs of a live layer or model."""

    def __init__(self) -> None:
        self.refused: list[Refusal] = []
        self.ignored: list[str] = []
        self.seen: set[int] = set()

    def contents(self, thing: Any) -> Contents:
        library = library_of(thing)
        said = dialect_of(getattr(sys.modules.get(library), "__version__", None))
        self.dialect = said or (TENSORFLOW_2 if library == "tf_keras" else KERAS_3)
        grus = self.below(thing, "") if hasattr(thing, "layers") else self.layer(thing, "")
        return Contents(tuple(grus), tuple(self.refused), tuple(self.ignored))

    def below(self, model: Any, name: str, mask: str = "") -> Iterator[StoredGRU]:
        found: dict[str, StoredGRU] = {}
        try:
            config = model.get_config()
            wiring = wiring_of({"class_name": type(model).__name__, "config": config}, self.dialect, mask)
            layers = config["layers"]
        except (NotImplementedError, KeyError, TypeError):  # a model of its own, which does not say how it is made
            wiring, layers = Wiring(), []
        for layer in model.layers:
            whole = f"{name}.{layer.name}" if name else str(layer.name)
            if hasattr(layer, "layers"):
                yield from self.below(layer, whole, wiring.masks.get(str(layer.name), ""))
            else:
                grus = self.layer(layer, whole)
                if len(grus) == 1:
                    found[str(layer.name)] = grus[0]
                else:
                    yield from grus
        yield from stacks_of(found, wiring, layers)

    def layer(self, layer: Any, name: str) -> list[StoredGRU]:
        known, own = _classes_of(layer)
        kind = known.__name__
        if kind in OTHER:
            self.refused.append(Refusal(name, f"a layer of the class {kind}"))
            return []
        if kind in RECURRENT and _holds_gru(layer) and any(COMPUTING & vars(cls).keys() for cls in own):
            self.refused.append(Refusal(name, ANYTHING.format(type(layer).__name__)))
            return []
        if kind not in RECURRENT:
            inner = [each for each in _inner(layer) if id(each) not in self.seen]
            self.seen |= {id(each) for each in inner}
            if not inner:
                self.ignored += [str(getattr(w, "path", w.name)) for w in getattr(layer, "weights", ())]
            return [gru for each in inner for gru in self.layer(each, f"{name}.{each.name}" if name else each.name)]

        def arrays(where: tuple[Step, ...]) -> Sequence[Tensor]:
            part = layer
            for step in where:
                part = getattr(part, step) if isinstance(step, str) else part[step[0]]
            return [_live_tensor(weight) for weight in part.weights]

        try:
            gru = gru_of(kind, known.get_config(layer), arrays, self.dialect)
        except GRUError as error:
            self.refused.append(Refusal(name, str(error)))
            return []
        if gru is None and _holds_gru(layer):
            self.refused.append(Refusal(name, ANYTHING.format(kind)))
        return [gru.renamed(name)] if gru is not None else []


COMPUTING = {"__call__", "call", "get_initial_state", "inner_loop"}
ANYTHING = "has a GRU's weights, but a {} may compute anything with them"


def _classes_of(layer: Any) -> tuple[Any, list[type]]:
    """The first class of Keras's own that a layer is of, and those that somebody else has derived from it."""
    homes = ("keras.", "tf_keras.")
    kinds = [cls for cls in type(layer).__mro__ if cls.__module__ != "gru_xp_keras"]  # which computes the same
    own = list(takewhile(lambda cls: not cls.__module__.startswith(homes), kinds))
    return next(iter(kinds[len(own) :]), object), own


def _holds_gru(layer: Any) -> bool:
    """Whether it is or holds a GRU or a cell of one, of whichever class."""
    return _classes_of(layer)[0].__name__ in ("GRU", "GRUCell", "CuDNNGRU") or any(map(_holds_gru, _inner(layer)))


def _inner(layer: Any) -> list[Any]:
    """The layers that a layer holds."""
    flatten = getattr(layer, "_flatten_layers", None)  # of both Kerases; there is no public way in tf_keras
    return list(flatten(include_self=False, recursive=False)) if callable(flatten) else []


def _live_tensor(weight: Any) -> Tensor:
    """A variable's value, an array of whichever backend Keras runs on; bfloat16 as float32."""
    dtype = str(getattr(weight.dtype, "name", weight.dtype))

    def read() -> np.ndarray:
        if library_of(weight) == "keras":
            from keras import ops  # which is there, because the layer is

            values = np.asarray(ops.convert_to_numpy(weight.value))
        else:  # TensorFlow's
            values = np.asarray(weight.numpy())
        return np.array(values, "f4" if dtype == "bfloat16" else values.dtype, order="C", copy=True)

    return Tensor(tuple(int(n) for n in weight.shape), dtype, read)
