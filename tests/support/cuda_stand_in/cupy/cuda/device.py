"""Where the class is in CuPy."""

from . import Device

__all__ = ["Device"]
