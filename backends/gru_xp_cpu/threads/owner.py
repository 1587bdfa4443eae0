"""The library whose threads compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Owner"]


@dataclass(frozen=True, eq=False)
class Owner:
    """A library with threads of OpenMP's: where it is installed, and how many threads it computes with."""

    folder: Path
    count: Callable[[], int]
