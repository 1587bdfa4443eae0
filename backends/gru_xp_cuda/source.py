"""The kernels' source, by dtype, and how it has to be compiled."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["LANES", "OPTIONS", "THREADS", "kernel_name", "source"]

THREADS = 128  # of a block

#: how many neighbours fill a load of 16 bytes
LANES = {"float32": 4, "float64": 2}
C_TYPES = {"float32": "float", "float64": "double"}

#: nothing contracted, flushed or estimated: the arithmetic is IEEE 754's, as the host build of the tests has it
OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", f"-DTHREADS={THREADS}")


def kernel_name(function: str, dtype: str, lanes: int) -> str:
    """What the kernel is called: "forward_float32", or with neighbours taken together "forward_float32_by_4"."""
    return f"{function}_{dtype}" if lanes == 1 else f"{function}_{dtype}_by_{lanes}"


@cache
def source(dtype: str) -> str:
    """CUDA C++ of the kernels for one dtype: `inference`, `forward` and `backward`, by one and by `LANES`."""
    text = Path(__file__).with_name("gates.cu").read_text(encoding="utf-8")
    wanted = (f"KERNELS({C_TYPES[dtype]}, {lanes}, {kernel_name('', dtype, lanes)[1:]})" for lanes in (1, LANES[dtype]))
    return "\n".join((text, *wanted, ""))
