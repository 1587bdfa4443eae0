"""The library whose threads compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Owner"]


@dataclass(frozen=True, eq=False)
class Owner:
    """A library with threads of OpenMP's: where it is installed, and how many threads it computes with.

    `empty(shape, dtype)` makes the arrays that are given to its users, as `numpy.empty`.
    """

    folder: Path
    count: Callable[[], int]
    empty: Callable[[tuple[int, ...], Any], Any]
