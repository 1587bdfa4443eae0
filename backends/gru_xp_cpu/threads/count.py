"""How many threads a call may use."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import cache
from pathlib import Path

from gru_xp.threads import MOST_THREADS as MOST
from gru_xp.threads import thread_limit

__all__ = ["thread_count"]


def thread_count() -> int:
    """The threads that a call may use: as many as somebody asked for, else the cores that this process may use."""
    chosen = thread_limit()
    if chosen is not None:
        return chosen
    return max(1, min(_cores(), _quota(), MOST))


def _cores() -> int:
    if sys.version_info >= (3, 13):
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _quota() -> int:
    """The cores that the control group grants, rounded down, or a large number."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        groups = Path("/proc/self/cgroup").read_text().splitlines()
        group = next((line for line in groups if line.startswith("0::")), "")
        limits = []
        folder = Path("/sys/fs/cgroup") / group[3:].lstrip("/")
        for place in (folder, *folder.parents):
            with contextlib.suppress(OSError):
                quota, period = (place / "cpu.max").read_text().split()
                if quota != "max":
                    limits.append(int(quota) // int(period))
            if place == Path("/sys/fs/cgroup"):
                break
        if limits:
            return max(1, min(limits))
    with contextlib.suppress(OSError, ValueError):
        folder = Path("/sys/fs/cgroup/cpu")
        quota_us, period_us = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return max(1, quota_us // period_us) if quota_us > 0 else MOST
    return MOST
