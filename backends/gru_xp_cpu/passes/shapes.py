"""The shapes of tiles: how many rows and groups of columns fit into the vector registers; nothing else knows these."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CHUNK", "Shapes", "WeightShapes", "columns_shapes", "gates_shapes", "weight_shapes"]

#: rows that one pass over the input's panels serves
CHUNK = 48


@dataclass(frozen=True)
class Shapes:
    """The tiles of one kind of product: the most groups for each number of rows, the first entry for one row.

    A group is `width` vectors.
    """

    groups: tuple[int, ...]
    width: int

    @property
    def rows(self) -> int:
        """The most rows of a tile."""
        return len(self.groups)

    @property
    def vectors(self) -> int:
        """The most sums of a tile."""
        return max(rows * groups * self.width for rows, groups in enumerate(self.groups, 1))

    @property
    def variants(self) -> list[dict[str, int]]:
        """The keywords of `tiles.tile`: for each number of rows 1 to max(groups) groups, as far as they go."""
        every = range(1, max(self.groups) + 1)
        return [
            {"rows": rows, "groups": min(groups, most), "width": self.width}
            for rows, most in enumerate(self.groups, 1)
            for groups in every
        ]


def gates_shapes(registers: int) -> Shapes:
    """Three gates side by side.

    One row could have more groups, but smaller pieces of the weights stay in the nearest cache better, see `tiling`.
    """
    return Shapes((2, 2, 1, 1, 1, 1, 1, 1) if registers == 32 else (2, 2, 1, 1), 3)


def columns_shapes(registers: int) -> Shapes:
    """Plain columns."""
    return Shapes((4, 6, 4, 3, 3, 3, 3, 3) if registers == 32 else (6, 4, 3, 3), 1)


@dataclass(frozen=True)
class WeightShapes:
    """The tiles of the weights' gradients: `units` rows of the gradient, and 1 to `groups` vectors of its columns."""

    units: int
    groups: int = 3

    @property
    def vectors(self) -> int:
        """The most sums of a tile."""
        return self.units * self.groups

    @property
    def variants(self) -> list[dict[str, int]]:
        """The keywords of `tiles.weight_tile`."""
        return [{"units": self.units, "groups": groups} for groups in range(1, self.groups + 1)]

    def blocks(self, V: int) -> int:
        """How many blocks of V units a tile reads, at least one."""
        return max(1, self.units // V)


def weight_shapes(registers: int) -> WeightShapes:
    """By the number of registers."""
    return WeightShapes(8 if registers == 32 else 4)
