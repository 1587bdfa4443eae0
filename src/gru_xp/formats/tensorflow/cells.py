"""TensorFlow 1's cells in one another: two directions, and stacks, by the names that its functions give."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from gru_xp.errors import ConversionError
from gru_xp.stored import Note, StoredGRU, stacked, two_directions

__all__ = ["joined"]

WAY = re.compile(r"((?:.*/)?)(fw|bw)(/(?!.*cell_\d).*)?", re.DOTALL)  # of bidirectional_dynamic_rnn; no stack in it
LEVEL = re.compile(r"(.*?/?)cell_(\d{1,6})(/.*)?", re.DOTALL)  # of MultiRNNCell and stack_bidirectional_dynamic_rnn
BACKWARDS = Note("assumed", "reverse=False", "its name says that it is given its x in the other direction")


def joined(grus: Iterable[StoredGRU]) -> tuple[StoredGRU, ...]:
    """Those of one layer as its two directions, then those of one stack on one another."""
    return tuple(_stacks(list(_directions(list(grus)))))


def _directions(grus: Sequence[StoredGRU]) -> Iterable[StoredGRU]:
    by_name = {gru.name: gru for gru in grus}
    for gru in grus:
        match = WAY.fullmatch(gru.name)
        if match is None:
            yield gru.noted(BACKWARDS) if re.search(r"(?:^|/)bw(?:/|$)", gru.name) else gru
            continue
        above, way, below = match[1], match[2], match[3] or ""
        other = by_name.get(f"{above}{'bw' if way == 'fw' else 'fw'}{below}")
        if other is None:
            yield gru.noted(BACKWARDS) if way == "bw" else gru
        elif way == "fw":
            try:
                yield two_directions(gru, other, above.removesuffix("/"))
            except ConversionError:
                yield from (gru, other.noted(BACKWARDS))
        # bw is given with its fw


def _stacks(grus: Sequence[StoredGRU]) -> Iterable[StoredGRU]:
    levels: dict[tuple[str, str], dict[int, StoredGRU]] = {}
    for gru in grus:
        if match := LEVEL.fullmatch(gru.name):
            levels.setdefault((match[1], match[3] or ""), {})[int(match[2])] = gru
    done = set[int]()
    for gru in grus:
        match = LEVEL.fullmatch(gru.name)
        found = levels[match[1], match[3] or ""] if match else {}
        if sorted(found) != list(range(len(found))) or len(found) < 2:
            yield gru
        elif id(found) not in done:
            done.add(id(found))
            tower = [found[level] for level in sorted(found)]
            try:
                yield stacked(tower)
            except ConversionError:
                yield from tower
