"""How many times as fast as the best peer gru_xp is: read from the result files of side_by_side.py."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from peers import PEERS
from points import POINTS
from processors import RESULTS

from gru_xp_conformance.timing import TASKS, Size, Timing

__all__ = ["Ratio", "best_peer", "every_result", "ratios", "read", "timings_of"]

OURS = "gru_xp"


class Ratio(NamedTuple):
    """The best peer's time over ours, with the ends of it that the rounds allow."""

    point: str
    task: str
    peer: str
    value: float
    least: float
    most: float


def read(path: Path | None) -> dict[str, Any]:
    """What a result file of side_by_side.py holds; nothing where there is none."""
    known = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else {}
    return {"about": {}, "timings": [], "peaks": {}, "meetings": {}, **known}


def every_result(benchmark: str) -> Iterator[dict[str, Any]]:
    """The result files of a benchmark, one for each kind of processor."""
    for path in sorted((RESULTS / benchmark).glob("*.json")):
        yield json.loads(path.read_text(encoding="utf-8"))


def timings_of(known: dict[str, Any]) -> list[Timing]:
    """The timings in a result file."""
    return [Timing(**{**one, "size": Size(*one["size"])}) for one in known["timings"]]


def best_peer(timings: Sequence[Timing], size: Size, task: str) -> Timing | None:
    """The fastest peer's timing."""
    found = [one for one in timings if (one.size, one.task) == (size, task) and one.engine in PEERS]
    return min(found, key=lambda one: one.median, default=None)


def ratios(known: dict[str, Any]) -> Iterator[Ratio]:
    """Each point and task at which gru_xp and a peer were measured."""
    timings = timings_of(known)
    for point, size in POINTS.items():
        for task in TASKS:
            peer = best_peer(timings, size, task)
            for one in timings:
                if peer is not None and (one.size, one.task, one.engine) == (size, task, OURS):
                    least, most = peer.least / one.most, peer.most / one.least
                    yield Ratio(point, task, peer.engine, peer.median / one.median, least, most)
