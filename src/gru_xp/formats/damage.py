"""Errors of files: each names the file, and whatever a damaged one leads to is a `FileFormatError`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gru_xp.errors import FileFormatError, GRUError

__all__ = ["reading"]

MOST = 300  # characters of somebody else's message


@contextmanager
def reading(path: Path, kind: str, *clear: type[GRUError]) -> Iterator[None]:
    """Around the reading of a file of a kind ("a file of Keras").

    `clear`: errors that say themselves what is wrong, before which the name of the file is put. All others, of any
    class, are taken for signs of damage, but for too little memory and for files that cannot be opened.
    """
    try:
        yield
    except (MemoryError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except clear as error:
        raise type(error)(f"{path}: {error}") from None
    except Exception as error:
        raise FileFormatError(
            f"{path}: expected {kind}, but it is damaged or something else: {type(error).__name__}: {str(error)[:MOST]}"
        ) from None
