"""Compiled code on disk: what kernels keep, so that the next process need not compile it.

A file is named by a digest of everything that it depends on. It carries a checksum, so that a damaged one counts as
missing; it is put in place by renaming, so that two processes cannot disturb each other; and where the folder cannot be
read or written everything works, only slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["folder", "place", "read", "write"]

VARIABLE = "GRU_XP_CACHE_DIR"


def folder(kind: str) -> Path | None:
    """Where code of that kind is kept: GRU_XP_CACHE_DIR, else the user's cache folder; None if that is "off"."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return None if chosen == "off" else Path(chosen)
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "gru_xp" / kind
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "gru_xp" / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "gru_xp" / kind


def place(kind: str, name: str, suffix: str, depends_on: Any) -> Path | None:
    """The file for code that depends on what `repr(depends_on)` tells; None where nothing is kept."""
    where = folder(kind)
    digest = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:32]
    return None if where is None else where / f"{name}-{digest}{suffix}"


def read(path: Path | None) -> bytes | None:
    """What `write` left there, whole, or None."""
    try:
        stored = b"" if path is None else path.read_bytes()
    except OSError:
        return None
    image = stored[32:]
    return image if hashlib.sha256(image).digest() == stored[:32] else None


def write(path: Path | None, image: bytes) -> None:
    """Keep it, if that can be done."""
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(image).digest() + image)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
