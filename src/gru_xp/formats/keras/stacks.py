"""Which of a model's layers lie on one another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gru_xp.errors import ConversionError
from gru_xp.formats.stored import StoredGRU, stacked

from .layer import kind_of

__all__ = ["links_of", "stacks_of"]


def links_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """Of each layer that reads just one other, and is the only one to do so, the one that it reads."""
    layers = entry["config"]["layers"]
    names = [str(layer["config"].get("name")) for layer in layers]
    if entry.get("class_name") == "Sequential":
        return dict(zip(names[1:], names[:-1], strict=True))
    reads: dict[str, list[str]] = {}
    for name, layer in zip(names, layers, strict=True):
        reads[name] = re.findall(r'"keras_history": \["((?:[^"\\]|\\.)*)"', json.dumps(layer.get("inbound_nodes")))
    read = [source for sources in reads.values() for source in sources]
    return {name: sources[0] for name, sources in reads.items() if len(sources) == 1 and read.count(sources[0]) == 1}


def stacks_of(
    found: dict[str, StoredGRU], links: Mapping[str, str], layers: Sequence[Mapping[str, Any]]
) -> Iterator[StoredGRU]:
    """The GRUs, those together that lie on one another with nothing but one rate of dropout between them."""
    rates = {
        str(layer["config"].get("name")): layer["config"].get("rate")
        for layer in layers
        if kind_of(layer) == "Dropout" and layer["config"].get("noise_shape") is None
    }
    towers: list[tuple[list[StoredGRU], set[float]]] = []
    top: dict[str, int] = {}  # the tower that a layer is the top of
    for name, gru in found.items():
        below, rate = links.get(name), 0.0
        if below in rates:
            below, rate = links.get(str(below)), float(rates[str(below)])
        tower = top.get(str(below))
        if tower is not None and 0.0 <= rate <= 1.0:
            grus, between = towers[tower]
            if len(between | {rate}) == 1 and _fits(grus, gru):
                grus.append(gru)
                between.add(rate)
                top[name] = tower
                continue
        top[name] = len(towers)
        towers.append(([gru], set()))
    for grus, between in towers:
        yield stacked(grus, between.pop() if between else 0.0) if len(grus) > 1 else grus[0]


def _fits(grus: list[StoredGRU], gru: StoredGRU) -> bool:
    plain = all(
        note.fate == "exact" or note.what.startswith(("dropout", "recurrent_dropout", "the policy", "unroll"))
        for note in grus[-1].report.notes
    )
    if not plain:  # its output is not y
        return False
    try:
        stacked([*grus, gru])
    except ConversionError:
        return False
    return True
