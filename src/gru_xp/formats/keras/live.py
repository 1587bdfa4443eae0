"""The GRUs in Keras's live layers and models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gru_xp.errors import GRUError
from gru_xp.formats.named import Tensor
from gru_xp.formats.stored import Contents, Refusal, StoredGRU
from gru_xp.formats.trees import tensor_of

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
        kind = type(layer).__name__ if type(layer).__module__.startswith("keras.") else ""
        if kind in OTHER:
            self.refused.append(Refusal(name, f"a layer of the class {kind}"))
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
            gru = gru_of(kind, layer.get_config(), arrays)
        except GRUError as error:
            self.refused.append(Refusal(name, str(error)))
            return []
        return [gru.renamed(name)] if gru is not None else []


def _live_tensor(weight: Any) -> Tensor:
    """A variable's value, an array of whichever backend Keras runs on."""
    return tensor_of(weight.value)
