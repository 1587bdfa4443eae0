"""Threads that another library computes with, where these are OpenMP's.

OpenMP's threads go on looking for work for some milliseconds after each operation. Threads of ours would have to share
the cores with them: on two cores a layer in both directions took four times as long, because of the concatenation in
between. So on the arrays of such a library its own threads do the work, which need not be woken either.
"""

from __future__ import annotations

import ctypes
import os
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gru_xp_cpu.emit.target import Target

from . import workers
from .shared import OPENMP, SYNC

if TYPE_CHECKING:
    from .owner import Owner

__all__ = ["OpenMP", "loaded", "runtime", "team"]

RUNTIME = re.compile(r"lib(gomp|iomp5|omp)[-.]")
#: GNU's, which LLVM's and Intel's runtimes have too; Microsoft's has not, so on Windows the threads are ours
FUNCTIONS = ("GOMP_parallel", "omp_get_thread_num")


def runtime(folder: Path) -> ctypes.CDLL | None:
    """The OpenMP runtime that is loaded, that of the library in `folder` if there are several; None without."""
    paths, folder = loaded(), folder.resolve()
    own = {path for path in paths if path.is_relative_to(folder) or path.parent.name == f"{folder.name}.libs"}
    found = own or paths
    if len(found) != 1:
        return None
    try:
        library = ctypes.CDLL(str(found.pop()))
    except OSError:
        return None
    return library if all(hasattr(library, name) for name in FUNCTIONS) else None


def loaded() -> set[Path]:
    """The OpenMP runtimes in this process: threadpoolctl finds them on every system, without it Linux lists them."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return _mapped()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of two runtimes together: whoever loaded them may care
        found = ThreadpoolController().info()
    return {Path(library["filepath"]) for library in found if library["user_api"] == "openmp"}


def _mapped() -> set[Path]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return set()
    return {Path(path) for line in lines if RUNTIME.match(Path(path := line.split(maxsplit=5)[-1]).name)}


class OpenMP(workers.Pool):
    """Teams of a runtime's threads; `count` says how many threads the library computes with."""

    launcher = "lend"

    def __init__(self, library: Any, count: Callable[[], int]):
        super().__init__()
        self.count = count
        for name, function in zip(OPENMP, FUNCTIONS, strict=True):
            self.sync[SYNC[name]] = ctypes.cast(getattr(library, function), ctypes.c_void_p).value

    def thread_count(self) -> int:
        """The threads that a call may use."""
        return min(workers.thread_count(), self.count())

    def run(self, target: Target, kernel: int, fields: bytes, threads: int) -> int:
        """As `Pool.run`. A forked process cannot use OpenMP if its parent did: it gets workers of ours."""
        if _forked:
            return workers.run(target, kernel, fields, threads)
        return super().run(target, kernel, fields, threads)

    def grow(self, target: Target, threads: int) -> None:
        """As `Pool.grow`; OpenMP does it."""


@cache
def team(owner: Owner) -> Any:
    """Who works on the arrays of a library: its own threads, or ours, for which the module `workers` serves."""
    library = runtime(owner.folder)
    return workers if library is None else OpenMP(library, owner.count)


_forked: list[bool] = []

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forked.append(True))
