"""What stands in an HDF5 file: groups, arrays, and the attributes that Keras writes.

Two ways in. `reader` is Python alone and reads what h5py writes unless it is asked for more, which is every file that
Keras itself writes. What it cannot read (chunks, filters, the newer file format) goes to h5py, where that is installed,
in a process of its own (`child`): a C parser that meets a file of unknown origin crashes or hangs there, not here.
"""

from __future__ import annotations

from .file import SIGNATURE, Stored, UnreadKindError, read

__all__ = ["SIGNATURE", "UnreadKindError", "Stored", "read"]
