"""Which systems, processors and Pythons were tried, should work, or cannot: docs/platforms.md has the same table."""

from __future__ import annotations

import platform
import struct
import sys
import sysconfig
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["ROWS", "Machine", "Row", "row_of", "table"]

Status: TypeAlias = Literal["tried", "expected", "not supported"]


class Machine(NamedTuple):
    """What a row depends on."""

    python: str  # CPython, PyPy, ...
    version: tuple[int, int]
    free_threaded: bool
    bits: int  # of an address
    system: str  # Linux, Darwin, Windows, ...
    processor: str  # x86_64, AMD64, arm64, aarch64, ...
    glibc: bool

    @classmethod
    def here(cls) -> Machine:
        """The one that runs this."""
        return cls(
            platform.python_implementation(),
            (sys.version_info.major, sys.version_info.minor),
            bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
            struct.calcsize("P") * 8,
            platform.system(),
            platform.machine(),
            platform.libc_ver()[0] == "glibc",
        )


class Row(NamedTuple):
    """A kind of machine, and what is known of it; the first row that a machine fits is its row."""

    name: str
    status: Status
    words: str
    fits: Callable[[Machine], bool]


X86 = ("x86_64", "AMD64")
ARM = ("aarch64", "arm64", "ARM64")


def _glibc_x86(m: Machine) -> bool:
    return m.system == "Linux" and m.glibc and m.processor in X86


ROWS: tuple[Row, ...] = (
    Row("Python 3.10 and older", "not supported", "pip does not install it there", lambda m: m.version < (3, 11)),
    Row(
        "PyPy, GraalPy, Pyodide and other Pythons",
        "expected",
        "the plain path alone: the CPU kernels know CPython's objects and decline",
        lambda m: m.python != "CPython" or m.system == "Emscripten",
    ),
    Row("32-bit Pythons", "expected", "the plain path alone: the CPU kernels decline", lambda m: m.bits != 64),
    Row(
        "Linux with glibc on x86-64, CPython 3.11",
        "tried",
        "every test, for each change (`.ci/run`)",
        lambda m: _glibc_x86(m) and m.version == (3, 11),
    ),
    Row(
        "the same, free-threaded CPython 3.13",
        "tried",
        "the plain path, in eight threads without the GIL (`.ci/full free_threads`); llvmlite has no wheels there",
        lambda m: _glibc_x86(m) and m.free_threaded and m.version == (3, 13),
    ),
    Row(
        "the same, CPython 3.12 and newer",
        "expected",
        "nothing here depends on the version; the layouts of objects that the CPU kernels use are looked at first",
        _glibc_x86,
    ),
    Row(
        "Linux with glibc on ARM64; macOS; Windows on x86-64",
        "expected",
        "kernels for NEON or AVX2; PyTorch's own threads where threadpoolctl is installed, never on Windows",
        lambda m: (
            (m.system == "Linux" and m.glibc and m.processor in ARM)
            or m.system == "Darwin"
            or (m.system == "Windows" and m.processor in X86)
        ),
    ),
    Row(
        "Linux with musl; Windows on ARM64",
        "expected",
        "the plain path, unless you build llvmlite, which has no wheels there",
        lambda m: m.system == "Linux" or m.system == "Windows",
    ),
    Row("any other system", "expected", "the plain path, where NumPy runs", lambda m: True),
)


def row_of(machine: Machine) -> Row:
    """The row of a machine."""
    return next(row for row in ROWS if row.fits(machine))


def table() -> str:
    """The rows as a Markdown table."""
    lines = [f"| {row.name} | {row.status} | {row.words} |" for row in ROWS]
    return "\n".join(("| system, processor, Python | | what that means |", "|---|---|---|", *lines)) + "\n"
