"""How the rows that 8-bit weights are multiplied with become whole numbers, and in which digits these are kept.

A row a is scaled by its largest number m (that of a state is 1) and rounded: k = a * (largest / m). The kernel
"integers" rounds to 8 bits, as `gru_xp.integers` defines it; "fixed" to 24, as many as a float32 has, for float32
activations. An instruction multiplies digits of 8 or 16 bits, so k is cut into `count` of them, of `bits` bits each.
The sums of each digit's products are exact, and are put together as floats once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .shapes import Shapes, gates_shapes

if TYPE_CHECKING:
    from gru_xp_cpu.emit.target import Target

    from .fields import Kind

__all__ = ["ROUNDING", "Digits", "digits_of"]

#: the kernels that round, and the largest whole number of each; a * (largest / m), rounded twice, may be a little more
ROUNDING: dict[Kind, int] = {"integers": 127, "fixed": 2**23 - 4}


@dataclass(frozen=True)
class Digits:
    """The digits of a whole number, the lowest first; all but the highest are not negative."""

    largest: int  # of the whole numbers
    count: int
    bits: int  # of each
    size: int  # bytes that each is kept in
    depth: int  # numbers of a row of W that an instruction multiplies and adds up for each word of its result
    offset: int  # added to the highest digit, for an instruction that takes unsigned ones

    @property
    def bytes(self) -> int:
        """Of a whole number."""
        return self.count * self.size

    @property
    def most(self) -> int:
        """Columns whose products a sum of 32 bits holds, whatever the numbers."""
        return (2**31 - 1) // (128 * (2**self.bits - 1 if self.count > 1 else self.largest))

    def shapes(self, registers: int) -> Shapes:
        """The tiles; each digit has its own sums."""
        if self.count == 1:
            return gates_shapes(registers)
        if registers == 32:
            return Shapes((2, 1, 1) if self.count == 3 else (2, 1, 1, 1), 3)
        return Shapes((1,) if self.count == 3 else (1, 1), 3)


def digits_of(kind: Kind, target: Target) -> Digits:
    """VNNI takes four unsigned bytes at once; elsewhere two signed numbers of 16 bits are multiplied and added up."""
    largest = ROUNDING[kind]
    if target.multiplies_bytes:
        return Digits(largest, 1 if kind == "integers" else 3, 8, 1, 4, 128)
    return Digits(largest, 1 if kind == "integers" else 2, 12, 2, 2, 0)
