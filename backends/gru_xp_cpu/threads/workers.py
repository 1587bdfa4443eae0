"""How many threads, and the workers that wait for kernels.

Workers are Python threads that live in native code: they sleep until a kernel comes, work on their part of it and sleep
again. One kernel at a time has them; a second caller waits its turn. Where there is no waiting, because the same thread
has them already (a signal handler or a finalizer that computes), or no starting them, the caller does all shares alone:
the shares are the same, so results never depend on who else computes. After a fork the child starts with none.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp.threads import thread_limit
from gru_xp_cpu.emit.compiler import Machine, machine
from gru_xp_cpu.emit.target import Target

from .barrier import FUNCTIONS, LOCKS, MOST, PLACES, SYNC, build

__all__ = ["NOBODY", "Pool", "Workers", "code", "run", "thread_count"]


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


def code(target: Target) -> Machine:
    """The code of threads: how they are launched, and what they do."""
    return machine(target, "threads", "float32", build)


def run(target: Target, kernel: int, fields: bytes, threads: int, alone: int) -> bool:
    """`Pool.run` of the workers of this process."""
    return _pools[0].run(target, kernel, fields, threads, alone)


class Pool:
    """Threads that work on one kernel at a time."""

    def __init__(self) -> None:
        self.turn = threading.RLock()
        self.busy = False
        self.sync, self.address = _record()
        self.launch: Any = None

    def run(self, target: Target, kernel: int, fields: bytes, threads: int, alone: int) -> bool:
        """Run a kernel on some threads, this one among them; True when all are done, False where that cannot be.

        `alone` is how many kernels this thread does alone if this one is held up, see `meeting`.
        """
        with self.turn:
            if self.busy:  # with this thread's own call, that a signal handler or a finalizer has come into
                return False
            try:
                self.busy = True
                if not self.grow(target, threads):
                    return False
                self.launch(self.address, kernel, fields, threads, alone)
            finally:
                self.busy = False
        return True

    def grow(self, target: Target, threads: int) -> bool:
        """Have at least so many threads, the caller's own among them; whether they could be started."""
        raise NotImplementedError

    def launcher(self, name: str, code: Machine) -> Any:
        """A function that has threads work."""
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64)
        for function, address in zip(FUNCTIONS, _addresses(), strict=True):
            self.sync[SYNC[function]] = address
        return kind(code.address(name))


class Workers(Pool):
    """Threads of ours, that sleep until they are called."""

    workers = 0

    def grow(self, target: Target, threads: int) -> bool:
        """As `Pool.grow`."""
        if self.workers >= threads - 1 and self.launch is not None:
            return True
        compiled = code(target)
        self.launch = self.launch or self.launcher("launch", compiled)
        serve = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(compiled.address("serve"))
        allocate = ctypes.pythonapi.PyThread_allocate_lock
        allocate.restype, acquire = ctypes.c_void_p, ctypes.pythonapi.PyThread_acquire_lock
        while self.workers < threads - 1:
            part = self.workers + 1
            if not self.sync[LOCKS + part]:  # else from a start that failed
                lock = allocate()
                acquire(ctypes.c_void_p(lock), 1)
                self.sync[LOCKS + part] = lock
            thread = threading.Thread(target=serve, args=(self.address, part), name=f"gru_xp_cpu-{part}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads for this process, or none any more: the interpreter ends
                return False
            self.workers = self.sync[SYNC["workers"]] = part
        return True


#: workers look at their record as long as the process lives, and may wake up at any time
_forever: list[Any] = []


def _record() -> tuple[Any, int]:
    """Zeros for what threads tell each other, see `meeting`, aligned to cache lines; and their address."""
    memory = np.zeros(PLACES + 8, np.int64)
    _forever.append(memory)
    sync = memory[-memory.ctypes.data % 64 // 8 :]
    return sync, sync.ctypes.data


def _addresses() -> list[int]:
    """Of `meeting.FUNCTIONS`; 0 for what this system does not have."""
    system = "kernel32" if sys.platform == "win32" else None
    names = ["SwitchToThread"] if sys.platform == "win32" else ["sched_yield"]
    names += ["sched_getcpu", "sched_getaffinity", "sched_setaffinity"]
    functions = [getattr(ctypes.pythonapi, f"PyThread_{name}_lock") for name in ("acquire", "release")]
    with contextlib.suppress(OSError):
        library = ctypes.CDLL(system)
        functions += [getattr(library, name, None) for name in names]
    functions += [None] * (len(FUNCTIONS) - len(functions))
    return [0 if f is None else ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions]


_pools = [Workers()]
# what a caller needs that does all shares itself: it is never to look for others, and any number may use it at once
_nobody, NOBODY = _record()
_nobody[SYNC["alone"]] = 1


def _after_fork() -> None:
    _pools[0] = Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
