"""The shapes of the tiles, by the number of vector registers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Shapes", "columns_shapes", "gates_shapes", "weight_units"]


@dataclass(frozen=True)
class Shapes:
    """Which tiles are used on a machine: the most groups for each number of rows, the first entry for one row."""

    groups: tuple[int, ...]
    width: int

    @property
    def rows(self) -> int:
        """The most rows of a tile."""
        return len(self.groups)


def gates_shapes(registers: int) -> Shapes:
    """Three gates side by side: what 32 or 16 registers hold.

    One row could have more groups, but smaller pieces of the weights stay in the nearest cache better, see `cover`.
    """
    return Shapes((2, 2, 1, 1, 1, 1, 1, 1) if registers == 32 else (2, 2, 1, 1), 3)


def columns_shapes(registers: int) -> Shapes:
    """Plain columns."""
    return Shapes((4, 6, 4, 3, 3, 3, 3, 3) if registers == 32 else (6, 4, 3, 3), 1)


def weight_units(registers: int) -> tuple[int, int]:
    """The units of a tile of the weights' gradients, and its most groups."""
    return (8, 3) if registers == 32 else (4, 3)
