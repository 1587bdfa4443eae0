"""The processor: the width of its vectors, the number of its registers, and its name and features for LLVM.

The width follows the machine. So that the code for other processors can be tested on this one, `GRU_XP_CPU_WIDTH`
(512, 256 or 128 bits) forces a narrower one, and `GRU_XP_CPU_VNNI=off` leaves out instructions that multiply bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Literal

import llvmlite.binding as llvm

__all__ = ["DType", "Target", "Wide", "computed_in", "current", "why_none", "widths"]

VARIABLE, WITHOUT = "GRU_XP_CPU_WIDTH", "GRU_XP_CPU_VNNI"
VNNI = ("avx512vnni", "avxvnni")
AVX2 = ("avx", "avx2", "fma", "f16c", "bmi", "bmi2")
SIZES = {"float32": 4, "float64": 8}
#: of arrays; of what is computed with
DType = Literal["float32", "float64", "float16", "bfloat16"]
Wide = Literal["float32", "float64"]


def computed_in(dtype: DType) -> Wide:
    """The dtype of the products and sums over arrays of `dtype`."""
    return "float64" if dtype == "float64" else "float32"


@dataclass(frozen=True)
class Target:
    """A processor, or the part of it that may be used."""

    bits: int  # of a vector: 512, 256, 128
    registers: int  # how many vectors they hold
    triple: str
    cpu: str
    features: str
    x86: bool

    @property
    def multiplies_bytes(self) -> bool:
        """Whether an instruction adds products of four bytes to a word, exactly: VNNI."""
        names = VNNI[:1] if self.bits == 512 else VNNI
        return self.x86 and not {f"+{name}" for name in names}.isdisjoint(self.features.split(","))

    def lanes(self, dtype: DType) -> int:
        """Numbers in a vector of what is computed over arrays of `dtype`."""
        return self.bits // 8 // SIZES[computed_in(dtype)]


@cache
def _host() -> tuple[str, str, frozenset[str]]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = frozenset(name for name, there in llvm.get_host_cpu_features().items() if there)
    return llvm.get_process_triple(), llvm.get_host_cpu_name(), features


@cache
def widths() -> tuple[int, ...]:
    """The widths that this processor can run, the widest first; empty where the kernels cannot run at all."""
    triple, _, features = _host()
    if triple.startswith(("aarch64", "arm64")):
        return (128,)
    if triple.startswith("x86_64") and features.issuperset(AVX2):
        wide = features.issuperset(("avx512f", "avx512vl", "avx512dq", "avx512bw"))
        return (512, 256, 128) if wide else (256, 128)
    return ()


def why_none(width: str | None = None) -> str | None:
    """Why the kernels cannot run here, or None."""
    if not widths():
        return "the processor has neither AVX2 nor NEON"
    width = os.environ.get(VARIABLE) if width is None else width
    if width and width not in map(str, widths()):
        return f"{VARIABLE}={width}: this processor has {', '.join(map(str, widths()))}"
    without = os.environ.get(WITHOUT)
    if without not in (None, "", "off"):
        return f"{WITHOUT}: expected off, got {without!r}"
    try:
        llvm.check_jit_execution()
    except OSError:
        return "memory may not become executable in this process (as SELinux or systemd's MemoryDenyWriteExecute say)"
    return None


@cache
def _target(bits: int, vnni: bool = True) -> Target:
    triple, cpu, names = _host()
    x86 = triple.startswith("x86_64")
    if x86 and bits < 512:
        names = frozenset(name for name in names if not name.startswith(("avx512", "avx10", "amx", "evex512")))
    # the name of the processor would bring back what was left out, so a narrower one has none
    cpu = cpu if bits == widths()[0] else "x86-64-v3" if x86 else "generic"
    features = ",".join(f"+{name}" for name in sorted(names) if vnni or name not in VNNI)
    if x86 and not vnni:
        features += "".join(f",-{name}" for name in VNNI)
    return Target(bits, 32 if bits == 512 or not x86 else 16, triple, cpu, features, x86)


@cache
def current() -> Target:
    """The target of this process: the variables are read once."""
    width = os.environ.get(VARIABLE)
    return _target(int(width) if width else widths()[0], vnni=not os.environ.get(WITHOUT))
