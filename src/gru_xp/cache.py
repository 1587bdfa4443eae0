"""Compiled code on disk: what kernels keep, so that the next process need not compile it.

A file is named by a digest of everything that it depends on. It carries a checksum, so that a damaged one counts as
missing, and is put in place by renaming, so that two processes cannot disturb each other.

What is read here is run. So it is read only where nobody but this user and root can have written it: folder and file
are opened first, and their owner, mode and type are looked at on the open descriptors, which no renaming can change.
Windows does not show these to Python; there code is kept inside the user's profile alone, which Windows protects.

Where nothing can be kept everything works, only slower: `fault` says why, and a process warns once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["fault", "folder", "place", "read", "write"]

VARIABLE = "GRU_XP_CACHE_DIR"
#: bytes: no compiled code is as large, so a file that is larger is none
LARGEST = 64 << 20
FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a FIFO would wait for a writer
_warned: list[str] = []


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
        return _absolute("LOCALAPPDATA", home / "AppData" / "Local") / "gru_xp" / kind
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "gru_xp" / kind
    return _absolute("XDG_CACHE_HOME", home / ".cache") / "gru_xp" / kind


def place(kind: str, name: str, suffix: str, depends_on: Any) -> Path | None:
    """The file for code that depends on what `repr(depends_on)` says; None where nothing is kept."""
    where = folder(kind)
    if where is None:
        if os.environ.get(VARIABLE) != "off":
            _warn("the user's cache folder", "this user has no home folder")
        return None
    digest = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:32]
    return where / f"{name}-{digest}{suffix}"


def read(path: Path | None) -> bytes | None:
    """What `write` left there, whole, or None; also where somebody else may have written it."""
    if path is None:
        return None
    try:
        with _file(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            stored = file.read(LARGEST)
    except OSError:
        return None
    image = stored[32:]
    return image if hashlib.sha256(image).digest() == stored[:32] else None


def write(path: Path | None, image: bytes) -> None:
    """Keep it, if that can be done; else warn, once in a process."""
    if path is None:
        return
    try:
        _make(path.parent)
        with _folder(path.parent):
            handle, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(image).digest() + image)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        _warn(path.parent, _words(error))


def fault(kind: str) -> str | None:
    """Why no code of that kind can be kept, in words, or None."""
    where = folder(kind)
    if where is None:
        return f"{VARIABLE}=off" if os.environ.get(VARIABLE) == "off" else "this user has no home folder"
    try:
        with _folder(where):
            pass
    except FileNotFoundError:
        where = next(parent for parent in where.absolute().parents if parent.exists())
    except OSError as error:
        return _words(error)
    return None if os.access(where, os.W_OK | os.X_OK) else f"{where} cannot be written to"


# ---- who may have written it ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int | None]:
    """The open folder, if nobody else can have written into it; None where a folder cannot be opened."""
    if os.open not in os.supports_dir_fd:
        profile = filter(os.path.isabs, (os.path.expanduser("~"), os.environ.get("LOCALAPPDATA", "")))
        if not any(path.resolve().is_relative_to(Path(inside).resolve()) for inside in profile):
            raise OSError(f"{path} lies outside the user's profile, where others may write to it")
        yield None
        return
    descriptor = os.open(path, FLAGS | os.O_DIRECTORY)
    try:
        _assert_own(descriptor, path, stat.S_IFDIR)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _file(path: Path) -> Iterator[int]:
    """The open file, if nobody else can have written it."""
    with _folder(path.parent) as within:
        if within is None:
            descriptor = os.open(path, FLAGS)
        else:
            descriptor = os.open(path.name, FLAGS | os.O_NOFOLLOW, dir_fd=within)
    try:
        if within is not None:
            _assert_own(descriptor, path, stat.S_IFREG)
        yield descriptor
    finally:
        os.close(descriptor)


def _assert_own(descriptor: int, path: Path, kind: int) -> None:
    """Raise unless the open file is of that kind, belongs to this user or root, and nobody else may write to it."""
    status = os.fstat(descriptor)
    if stat.S_IFMT(status.st_mode) != kind:
        raise OSError(f"{path} is no {'folder' if kind == stat.S_IFDIR else 'file'}")
    if status.st_uid not in (0, os.geteuid()):
        raise OSError(f"{path} belongs to another user ({status.st_uid}), who could have this process run anything")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"others may write to {path} and could have this process run anything; chmod go-w {path}")


def _make(path: Path) -> None:
    """Make the folder and those above it that are missing, for this user alone, which `parents=True` does not do."""
    if not path.is_dir():
        _make(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def _absolute(variable: str, otherwise: Path) -> Path:
    """The folder that a variable names; a relative one says nothing, as the XDG base directory specification has it."""
    named = Path(os.environ.get(variable, ""))
    return named if named.is_absolute() else otherwise


def _words(error: OSError) -> str:
    return error.strerror or str(error)


def reset_for_tests() -> None:
    """Warn again, as a new process would."""
    _warned.clear()


def _warn(where: Path | str, reason: str) -> None:
    if not _warned:
        _warned.append(reason)
        warnings.warn(
            f"compiled kernels cannot be kept in {where}: {reason}. Every process compiles them anew, which takes "
            f"seconds; set {VARIABLE} to a folder that is yours alone, or to 'off'",
            RuntimeWarning,
            stacklevel=2,
        )
