"""The GRUs in Keras's live layers and models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from gru_xp.errors import GRUError
from gru_xp.formats.named import Tensor
from gru_xp.stored import Contents, Refusal, StoredGRU

from .layer import OTHER, RECURRENT, gru_of
from .stacks import Wiring, stacks_of, wiring_of

__all__ = ["Live"]


class Live:
    """The GRUs of a live layer or model."""

    def __init__(self) -> None:
        self.refused: list[Refusal] = []
        self.ignored: list[str] = []
        self.seen: set[int] = set()

    def contents(self, thing: Any) -> Contents:
        grus = self.below(thing, "") if hasattr(thing, "layers") else self.layer(thing, "")
        return Contents(tuple(grus), tuple(self.refused), tuple(self.ignored))

    def below(self, model: Any, name: str, mask: str = "") -> Iterator[StoredGRU]:
        found: dict[str, StoredGRU] = {}
        try:
            config = model.get_config()
            wiring = wiring_of({"class_name": type(model).__name__, "config": config}, mask)
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
            inner = [each for each in getattr(layer, "_layers", ()) if id(each) not in self.seen]
            self.seen |= {id(each) for each in inner}
            if not inner:
                self.ignored += [str(weight.path) for weight in getattr(layer, "weights", ())]
            return [gru for each in inner for gru in self.layer(each, f"{name}.{each.name}" if name else each.name)]

        def arrays(where: tuple[str | int, ...]) -> Sequence[Tensor]:
            part = layer
            for step in where:
                part = part[step] if isinstance(step, int) else getattr(part, step)
            return [_live_tensor(weight) for weight in part.weights]

        try:
            gru = gru_of(kind, known.get_config(layer), arrays)
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
    own = list(takewhile(lambda cls: not cls.__module__.startswith("keras."), type(layer).__mro__))
    return next(iter(type(layer).__mro__[len(own) :]), object), own


def _holds_gru(layer: Any) -> bool:
    """Whether it is or holds a GRU or a cell of one, of whichever class."""
    inner = getattr(layer, "_layers", ())
    return _classes_of(layer)[0].__name__ in ("GRU", "GRUCell") or any(map(_holds_gru, inner))


def _live_tensor(weight: Any) -> Tensor:
    """A variable's value, an array of whichever backend Keras runs on; bfloat16 as float32."""
    from keras import ops  # which is there, because the layer is

    def read() -> np.ndarray:
        values = np.asarray(ops.convert_to_numpy(weight.value))
        return np.array(values, "f4" if weight.dtype == "bfloat16" else values.dtype, order="C", copy=True)

    return Tensor(tuple(weight.shape), str(weight.dtype), read)
