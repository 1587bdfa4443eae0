"""To measure again what other programs have disturbed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

__all__ = ["undisturbed"]

T = TypeVar("T")
#: cores that programs outside of a measurement may use during it, and how often it is tried
MOST, TRIES = 0.1, 6


def undisturbed(measure: Callable[[], T], processes: Iterable[int]) -> T:
    """What `measure` returns when programs other than `processes` and this one left the processor alone.

    It is repeated until they do, at most `TRIES` times: then the last result counts. Where the system does not say
    who uses the processor, the first one does.
    """
    ours = [os.getpid(), *processes]
    for _ in range(TRIES):
        begin, others = time.perf_counter(), _others(ours)
        result = measure()
        now = _others(ours)
        if others is None or now is None or now - others <= MOST * (time.perf_counter() - begin) + _tick():
            break
        time.sleep(0.5)
    return result


def _tick() -> float:
    return 2 / os.sysconf("SC_CLK_TCK")


def _others(ours: Iterable[int]) -> float | None:
    """Seconds of all cores that other processes have used since the system started."""
    try:
        busy = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        used = busy[0] + busy[1] + busy[2] + busy[5] + busy[6]  # all but idle, waiting and stolen
        for pid in ours:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used -= int(fields[11]) + int(fields[12])
    except (OSError, ValueError, IndexError):
        return None
    return used / os.sysconf("SC_CLK_TCK")
