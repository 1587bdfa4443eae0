"""What a kernel is called with, as the kernel's code sees it."""

from __future__ import annotations

from typing import Any

from gru_xp_cpu.emit.code import Code, Value

from .fields import ARRAYS, CALL, COMPACT, PLACES, SIZES

__all__ = ["Record"]


class Record:
    """What a kernel is called with, see `fields`: one integer each; a star before a name makes it an address of reals.

    Of the tuple of arrays each becomes the address of its data, None that of nothing, and for each name there is
    `has_name`, 1 or 0. `loose` says how many arrays are not compact, apart from those with a tilde before the name.
    Items stand `items_at` bytes on in a tuple, the address of the data `data_at` and the flags `flags_at` bytes on in
    an array: to ask Python and NumPy for all that takes longer than a small kernel.
    """

    def __init__(self, code: Code, address: Value, kind: str):
        integers = code.ints_at(address)
        for i, word in enumerate(f"{SIZES} {CALL[kind]} {PLACES[kind]}".split()):
            value = integers.load(i)
            setattr(self, word.lstrip("*"), code.reals_at(value) if word[0] == "*" else value)
        items = code.ints_at(self.arrays + self.items_at)
        self.loose = code.integer(0)
        for i, word in enumerate(ARRAYS[kind].split()):
            array, name = items.load(i), word.lstrip("~")
            missing = array.equals(self.none)
            data = code.ints_at(array + code.select(missing, 0, self.data_at)).load()
            setattr(self, name, code.reals_at(code.select(missing, 0, data)))
            setattr(self, f"has_{name}", code.select(missing, code.integer(0), 1))
            if name == word:
                flags = code.ints_at(array + code.select(missing, 0, self.flags_at)).load()
                compact = missing | (flags & COMPACT).equals(COMPACT)
                self.loose = self.loose + code.select(compact, code.integer(0), 1)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"no field {name}")
