"""Compiled code on disk: read only where nobody but this user and root can have written it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gru_xp import cache

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="owners and modes of POSIX")
IMAGE = b"machine code"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the cache, in folders that were missing."""
    monkeypatch.setenv("GRU_XP_CACHE_DIR", str(tmp_path / "some" / "cache"))
    cache.reset_for_tests()
    path = cache.place("cpu", "forward", ".o", ["everything"])
    assert path is not None
    cache.write(path, IMAGE)
    return path


def test_what_was_written_is_read(kept: Path) -> None:
    assert cache.read(kept) == IMAGE
    assert cache.fault("cpu") is None
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert cache.place("cpu", "forward", ".o", ["something else"]) != kept


def test_a_damaged_file_counts_as_missing(kept: Path) -> None:
    for damaged in (kept.read_bytes()[:-1], kept.read_bytes() + b"\0", b"", b"\0" * 32):
        kept.write_bytes(damaged)
        assert cache.read(kept) is None
    cache.write(kept, IMAGE)
    assert cache.read(kept) == IMAGE


@POSIX
def test_folders_are_made_for_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_XP_CACHE_DIR", str(tmp_path / "a" / "b" / "c"))
    before = os.umask(0)
    try:
        cache.write(cache.place("cpu", "forward", ".o", []), IMAGE)
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "a/b/c"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700
    (file,) = (tmp_path / "a" / "b" / "c").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def writable_by_the_group(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o020)


def writable_by_others(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def another_users(path: Path) -> None:
    os.chown(path, 65534, 65534)


@POSIX
@pytest.mark.parametrize("which", ["file", "folder"])
@pytest.mark.parametrize(
    "change",
    [
        writable_by_the_group,
        writable_by_others,
        pytest.param(
            another_users,
            marks=pytest.mark.skipif(
                not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away"
            ),
        ),
    ],
)
def test_what_others_may_have_written_is_never_read(kept: Path, which: str, change: Callable[[Path], None]) -> None:
    """A checksum proves nothing: whoever writes the code writes that too."""
    change(kept if which == "file" else kept.parent)
    assert cache.read(kept) is None
    if which == "file":  # a file of this user's own takes its place
        cache.write(kept, IMAGE)
        assert cache.read(kept) == IMAGE
        return
    with pytest.warns(RuntimeWarning, match="another user|others may write") as found:
        cache.write(kept, IMAGE)
    assert "set GRU_XP_CACHE_DIR" in str(found[0].message)
    assert cache.read(kept) is None
    assert cache.fault("cpu") in str(found[0].message)


@POSIX
@pytest.mark.timeout(60)
def test_what_is_no_ordinary_file_is_never_read(kept: Path) -> None:
    """A link may lead to a file that somebody had this user make; a FIFO would wait for ever."""
    stored = kept.read_bytes()
    kept.unlink()
    elsewhere = kept.parent.parent / "elsewhere"
    elsewhere.write_bytes(stored)
    kept.symlink_to(elsewhere)
    assert cache.read(kept) is None
    kept.unlink()
    os.mkfifo(kept)
    assert cache.read(kept) is None
    kept.unlink()
    kept.mkdir()
    assert cache.read(kept) is None


def test_a_relative_folder_of_a_variable_for_all_programs_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRU_XP_CACHE_DIR", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for variable, platform, usual in (
        ("XDG_CACHE_HOME", "linux", tmp_path / ".cache"),
        ("LOCALAPPDATA", "win32", tmp_path / "AppData" / "Local"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setenv(variable, "relative")
        assert cache.folder("cpu") == usual / "gru_xp" / "cpu"
        monkeypatch.setenv(variable, str(tmp_path / "chosen"))
        assert cache.folder("cpu") == tmp_path / "chosen" / "gru_xp" / "cpu"


def test_where_owners_are_unknown_only_the_profile_is_trusted(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.setattr(os, "supports_dir_fd", set())
    monkeypatch.setenv("HOME", str(kept.parent.parent))
    monkeypatch.setenv("USERPROFILE", str(kept.parent.parent))
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    assert cache.read(kept) == IMAGE
    monkeypatch.setenv("HOME", str(kept.parent.parent / "other"))
    monkeypatch.setenv("USERPROFILE", str(kept.parent.parent / "other"))
    assert cache.read(kept) is None
    assert "outside the user's profile" in (cache.fault("cpu") or "")
    monkeypatch.setenv("LOCALAPPDATA", str(kept.parent))
    assert cache.read(kept) == IMAGE


def test_a_process_warns_once_that_nothing_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.reset_for_tests()
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("GRU_XP_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert cache.fault("cpu")
    with pytest.warns(RuntimeWarning, match="kernels cannot be kept in .*cache: .* Every process compiles them anew"):
        cache.write(cache.place("cpu", "forward", ".o", []), IMAGE)
    cache.write(cache.place("cpu", "backward", ".o", []), IMAGE)
    cache.reset_for_tests()
    monkeypatch.setenv("GRU_XP_CACHE_DIR", "off")  # who says so knows it
    cache.write(cache.place("cpu", "forward", ".o", []), IMAGE)
    assert cache.fault("cpu") == "GRU_XP_CACHE_DIR=off"


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    cache.reset_for_tests()
    monkeypatch.delenv("GRU_XP_CACHE_DIR", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache.fault("cpu") == "this user has no home folder"
    with pytest.warns(RuntimeWarning, match="no home folder"):
        assert cache.place("cpu", "forward", ".o", []) is None


PROGRAM = """
import warnings
import numpy as np, gru_xp
model = gru_xp.GRU(3, 4, seed=0)
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    y, h_n, tape = model.forward(np.ones((5, 2, 3), np.float32))
    model.backward(tape, y)
print(len(found), "cannot be kept" in "".join(str(one.message) for one in found))
"""


@pytest.mark.parametrize(("blocked", "words"), [(False, "0 False\n"), (True, "1 True\n")])
def test_the_kernels_of_a_process_warn_once(tmp_path: Path, blocked: bool, words: str) -> None:
    pytest.importorskip("llvmlite")
    (tmp_path / "file").write_text("no folder")
    folder = tmp_path / ("file" if blocked else "folder") / "cache"
    environment = {**os.environ, "GRU_XP_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == words
