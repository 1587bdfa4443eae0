"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], data: bytes) -> None:
    """All of it or nothing: into a new file beside it, which is then renamed.

    A link keeps pointing to what it pointed to, and a file that is there keeps its permissions. What is there and is no
    file, such as a pipe or /dev/stdout, stays what it is and is written into.
    """
    if _is_special(path):
        with open(path, "wb") as special:
            special.write(data)
        return
    target = Path(os.path.realpath(os.fsdecode(path)))
    if target.is_dir():
        raise IsADirectoryError(f"{target}: expected a file, got a folder")
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    except FileNotFoundError:
        raise FileNotFoundError(f"{target}: its folder does not exist") from None
    try:
        with os.fdopen(handle, "wb") as file:
            if target.exists():
                with contextlib.suppress(OSError):
                    os.chmod(temporary, target.stat().st_mode & 0o7777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _is_special(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bool:
    """Whether something is there, behind all links, that is neither a file nor a folder."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
