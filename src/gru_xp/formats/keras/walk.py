"""The GRUs of a file: those that the description tells of, and those that only the arrays show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from gru_xp.checks import sizes_of
from gru_xp.errors import ConversionError, FileFormatError, GRUError
from gru_xp.formats.keras_arrays import is_cudnn, looks_like_one, read_cell
from gru_xp.params import GRUSpec
from gru_xp.stored import Arrays, Contents, Note, Refusal, Report, StoredGRU, Tensor, two_directions

from .dialects import Dialect
from .files import Model
from .layer import KEPT, OTHER, RECURRENT, Step, gru_of, kind_of
from .sources import LayerPlace, snake_case
from .stacks import layers_of, name_of, stacks_of, wiring_of

__all__ = ["Walk", "both_directions", "guessed"]

MOST_LAYERS = 20_000
DEEPEST = 20


class _Closed(NamedTuple):
    """A layer whose description is there and is not understood."""

    name: str
    kind: str
    arrays: Sequence[str]


class Walk:
    """One way through a file, which keeps what was refused on it and which arrays were read."""

    def __init__(self, model: Model):
        self.config, self.dialect, self.source = model
        self.tensors = self.source.tensors
        self.used: set[str] = set()
        self.asked: set[str] = set()
        self.layers = 0
        self.refused: list[Refusal] = []
        self.closed: dict[str, _Closed] = {}  # by the names of arrays

    def contents(self) -> Contents:
        grus = list(self.below(self.config, None, "")) if self.config is not None else []
        grus += self.rest()
        ignored = tuple(name for name in self.tensors if name not in self.used)
        arrays = Arrays(self.tensors)
        return Contents(tuple(grus), tuple(self.refused), ignored, arrays)

    def below(self, entry: Any, place: Any, name: str, depth: int = 0, mask: str = "") -> Iterator[StoredGRU]:
        """In the layers of a described model; `mask` is what makes the mask of its input."""
        layers = layers_of(entry)
        if layers is None or depth > DEEPEST:
            return
        self.layers += len(layers)
        if self.layers > MOST_LAYERS:
            raise FileFormatError(f"expected at most {MOST_LAYERS} layers")
        wiring = wiring_of(entry, self.dialect, mask)
        counts: dict[str, int] = {}
        found: dict[str, StoredGRU] = {}
        for layer in layers:
            kind = str(layer["class_name"])
            stem = snake_case(kind)
            count = counts[stem] = counts.get(stem, -1) + 1
            label = name_of(layer) or stem
            own = self.source.child(place, LayerPlace(label, kind, count))
            whole = f"{name}.{label}" if name else label
            gru = self.layer(layer, own, whole)
            if gru is not None:
                found[label] = gru
            elif kind_of(layer) == "TimeDistributed":
                inner = layer["config"]["layer"]
                inside = f"{whole}.{name_of(inner) or 'layer'}"
                gru = self.layer(inner, self.source.part(own, "layer"), inside)
                yield from () if gru is None else (gru,)
            elif layers_of(layer) is not None:
                yield from self.below(layer, own, whole, depth + 1, wiring.masks.get(label, ""))
        yield from stacks_of(found, wiring, layers)

    def layer(self, entry: Any, place: Any, name: str) -> StoredGRU | None:
        kind = kind_of(entry)
        if kind in OTHER:
            self.refuse(place, name, f"a layer of the class {kind}")
        if kind not in RECURRENT:
            if layers_of(entry) is None:
                self.close(place, name, str(entry["class_name"]), kind != "" and "module" in entry)
            return None

        def arrays(where: tuple[Step, ...]) -> Sequence[Tensor]:
            part = place
            for step in where:
                part = self.source.part(part, step)
            names = self.source.arrays(part)
            self.used.update(names)
            return [self.tensors[name] for name in names]

        try:
            gru = gru_of(kind, entry["config"], arrays, self.dialect)
        except FileFormatError:
            raise
        except GRUError as error:
            self.refuse(place, name, str(error))
            return None
        if gru is None:
            self.close(place, name, kind, True)
            return None
        return gru.renamed(name)

    def refuse(self, place: Any, name: str, reason: str) -> None:
        self.used.update(self.first_time(place))
        self.refused.append(Refusal(name, reason))

    def close(self, place: Any, name: str, kind: str, keras_own: bool) -> None:
        """Remember a layer whose description is there and is not understood.

        Whole layers in one that is not Keras's own are left: nothing says what they are, as in a file of arrays alone.
        """
        arrays = list(self.first_time(place))
        own = [array for array in arrays if keras_own or self.source.own(place, array)]
        self.closed |= dict.fromkeys(own, _Closed(name, kind, arrays))

    def first_time(self, place: Any) -> Iterable[str]:
        """All arrays of the layer at a place; none if it was asked for before, as many layers may have one name."""
        first = next(iter(self.source.below(place)), None)
        if first is None or first in self.asked:
            return ()
        self.asked.add(first)
        return self.source.below(place)

    def may_be_anything(self, names: Sequence[str]) -> bool:
        """Refuses arrays of a layer that is not understood."""
        closed = self.closed.get(names[0])
        if closed is None:
            return False
        reason = f"has a GRU's weights, but a {closed.kind} that is described so may compute anything with them"
        self.refused.append(Refusal(closed.name, reason))
        self.used.update(closed.arrays)
        return True

    def rest(self) -> Iterator[StoredGRU]:
        """GRUs that no description tells of, by the names and shapes of their arrays."""
        found: dict[str, StoredGRU] = {}
        for place, group in _groups(self.tensors).items():
            names = next(
                ([group[leaf] for leaf in order if leaf in group] for order in ORDERS if _fits(group, order)), []
            )
            if not names or self.used & {*names} or TRAINED.match(place):
                continue
            tensors = [self.tensors[name] for name in names]
            if not looks_like_one([tensor.shape for tensor in tensors]) or self.may_be_anything(names):
                continue
            self.used.update(names)
            path = _path_of(place)
            try:
                found[path] = guessed(tensors, path, self.dialect)
            except FileFormatError:
                raise
            except GRUError as error:
                self.refused.append(Refusal(path, str(error)))
        yield from _pairs(found, self.dialect)


TRAINED = re.compile(r"optimizer(?:_weights)?(?:/|$)|(?:.*/)?\.OPTIMIZER_SLOT(?:/|$)")  # what an optimiser keeps
ORDERS = (  # of a cell's arrays, by the last part of their names: since Keras 3, before it, Keras 1's
    ("0", "1", "2"),
    ("kernel", "recurrent_kernel", "bias"),
    tuple(f"{array}_{gate}" for gate in "zrh" for array in "WUb"),
    ("W", "U", "b"),
)
OPTIONAL = ("2", "bias")


def _groups(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, str]]:
    """The names of the arrays by place, and by the last part that says what they are."""
    groups: dict[str, dict[str, str]] = {}
    for name in tensors:
        place, _, leaf = name.removesuffix(":0").rpartition("/")
        keras_1 = re.fullmatch(r"(.+)_([WUb](?:_[zrh])?)", leaf)
        if keras_1:
            place, leaf = f"{place}/{keras_1[1]}" if place else keras_1[1], keras_1[2]
        groups.setdefault(place, {})[leaf] = name
    return groups


def _fits(group: Mapping[str, str], order: Sequence[str]) -> bool:
    return {*order} - {*OPTIONAL} <= group.keys() <= {*order}


def _path_of(place: str) -> str:
    """Where a GRU is, without what every file of the kind has: "model_weights/a/a/gru_cell_1" is "a"."""
    path = re.sub(r"(?:^|/)vars$", "", place)
    path = re.sub(r"(?<!cells)(?:^|/)(?:cell|gru_cell(?:_\d+)?)$", "", path).removeprefix("model_weights/")
    first, _, further = path.partition("/")
    return further if further.partition("/")[0] == first else path


def guessed(tensors: Sequence[Tensor], path: str, dialect: Dialect) -> StoredGRU:
    """A GRU by its arrays alone, which say neither its activations nor its direction."""
    w, told, dtype = read_cell(tensors)
    sizes_of(((w,),))
    reset_after = told is not False
    gates = "sigmoid" if is_cudnn(tensors) else dialect.default_gates(reset_after)
    options: dict[str, Any] = {"go_backwards": False, "time_major": False}
    if not is_cudnn(tensors):
        options |= {"recurrent_activation": gates, "activation": "tanh", "zero_output_for_mask": False}
    if told is None:
        options |= {"use_bias": False, "reset_after": True}
    what = ", ".join(f"{name}={value}" for name, value in options.items())
    why = f"arrays alone do not tell; taken to be a GRU of Keras {dialect.text} with these options"
    spec = GRUSpec(reset_after, dialect.activation(gates), padding="hold")
    report = Report((KEPT, Note("assumed", what, why)))
    return StoredGRU(((w,),), spec, path, dtype, batch_first=True, report=report)


HALF = re.compile(r"((?:.*/)?)(forward|backward)_[^/]*((?:/.*)?)", re.DOTALL)


def _pairs(found: Mapping[str, StoredGRU], dialect: Dialect) -> Iterator[StoredGRU]:
    """The two layers of a `Bidirectional` as one, under its path: ".../forward_layer", before Keras 3 "forward_gru"."""
    halves: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path in found:
        if match := HALF.fullmatch(path):
            halves.setdefault((match[1], match[3]), {}).setdefault(match[2], []).append(path)
    others = {}
    for ways in halves.values():
        if all(len(ways.get(way, ())) == 1 for way in ("forward", "backward")):
            others[ways["forward"][0]] = ways["backward"][0]
    joined = {*others.values()}
    for path, gru in found.items():
        if path not in others:
            yield from () if path in joined else (gru,)
            continue
        other = found[others[path]]
        try:
            yield both_directions(gru, other, HALF.sub(r"\1", path).removesuffix("/"), dialect)
        except ConversionError:
            yield from (gru, other)


def both_directions(forward: StoredGRU, backward: StoredGRU, name: str, dialect: Dialect) -> StoredGRU:
    """The two layers of a `Bidirectional` by their arrays alone."""
    gru = two_directions(forward, backward, name)
    return replace(gru, spec=replace(gru.spec, padding="zero")) if dialect.zeroes_both else gru
