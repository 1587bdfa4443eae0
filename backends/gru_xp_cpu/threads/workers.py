"""The workers that wait for kernels.

Workers are threads that live in native code: they sleep until a kernel comes, work on their part of it and sleep again.
They never run Python, and are started by Python's own function of its C interface: `threading.Thread` would be a
greenlet where gevent or eventlet have patched it, and block the only real thread.

One kernel at a time has the workers; a second caller waits its turn. Where there is no waiting, because the same thread
has them already (a signal handler or a finalizer that computes), or no blocking in this system, the caller does all
shares alone: the shares are the same, so results never depend on who else computes. After a fork the child starts with
none.
"""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any

import numpy as np

from gru_xp_cpu.emit.compiler import Machine, machine
from gru_xp_cpu.emit.target import Target

from .count import thread_count
from .launching import build
from .shared import PLACES, SYNC, WORKER, line
from .system import functions

__all__ = ["SOLO", "Pool", "Workers", "code", "run", "thread_count"]


def code(target: Target) -> Machine:
    """The code of threads: how they are launched, and what they do."""
    return machine(target, "threads", "float32", build)


def run(target: Target, kernel: int, fields: bytes, threads: int) -> int:
    """`Pool.run` of the workers of this process."""
    return _pools[0].run(target, kernel, fields, threads)


class Pool:
    """Threads that work on one kernel at a time."""

    #: what has them work, in the module "threads"
    launcher: str

    def __init__(self) -> None:
        self.turn = threading.RLock()
        self.busy = False
        self.sync, self.address = _record()
        self.launch: Any = None

    def run(self, target: Target, kernel: int, fields: bytes, threads: int) -> int:
        """Run a kernel on so many threads, this one among them, or fewer.

        Returns how often one of them blocked in it; -1 where this thread has to do all shares itself.
        """
        with self.turn:
            if self.busy:  # with this thread's own call, that a signal handler or a finalizer has come into
                return -1
            try:
                self.busy = True
                if not self.ready(target, threads):
                    return -1
                blocked: int = self.launch(self.address, kernel, fields, threads)
                return blocked
            finally:
                self.busy = False

    def ready(self, target: Target, threads: int) -> bool:
        """Start the threads that are missing of so many, the caller being one; False where threads cannot block."""
        if self.launch is None:
            for name, address in functions().items():
                self.sync[SYNC[name]] = address
            kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_char_p, ctypes.c_int64)
            self.launch = kind(code(target).address(self.launcher))
        if not self.sync[SYNC["wait"]]:
            return False
        self.grow(target, threads)
        return True

    def grow(self, target: Target, threads: int) -> None:
        """Start the threads that are missing, as far as that can be done."""
        raise NotImplementedError


class Workers(Pool):
    """Threads of ours, that sleep until they are called."""

    launcher = "launch"
    workers = 0

    def grow(self, target: Target, threads: int) -> None:
        """As `Pool.grow`."""
        if self.workers >= threads - 1:
            return
        serve = code(target).address("serve")
        while self.workers < threads - 1:
            part = self.workers + 1
            at = line(part, WORKER)
            self.sync[at : at + 2] = self.address, part
            if not _started(serve, self.address + 8 * at):
                return
            self.workers = self.sync[SYNC["workers"]] = part


def _started(function: int, argument: int) -> bool:
    """Start a thread that runs native code; False where there can be no more of them."""
    start = ctypes.pythonapi.PyThread_start_new_thread
    start.restype = ctypes.c_ulong
    failed = ctypes.c_ulong(-1).value
    return bool(start(ctypes.c_void_p(function), ctypes.c_void_p(argument)) != failed)


#: workers look at their record as long as the process lives, and may wake up at any time
_forever: list[Any] = []


def _record() -> tuple[Any, int]:
    """Zeros for what threads say to each other, see `shared`, aligned to pairs of cache lines; and their address."""
    memory = np.zeros(PLACES + 16, np.int64)
    _forever.append(memory)
    sync = memory[-memory.ctypes.data % 128 // 8 :]
    return sync, sync.ctypes.data


_pools = [Workers()]
# what a caller needs that does all shares itself; any number may use it at once
_solo, SOLO = _record()
_solo[SYNC["solo"]] = 1


def _after_fork() -> None:
    _pools[0] = Workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
