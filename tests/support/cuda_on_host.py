"""The CUDA kernels' source, built by the machine's C++ compiler and run on its memory, launch by launch.

Every operation in it is exactly rounded by IEEE 754 and nothing is contracted, so the bits are those that a GPU has to
compute. What this does not show stands in docs/cuda.md.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gru_xp_cuda import CudaGates, Launch
from gru_xp_cuda.source import C_TYPES, THREADS, source

COMPILER = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
#: why there is no host build, or None
MISSING = None if COMPILER else "no C++ compiler here: neither g++ nor c++, nor what CXX names"


def build(source_file: str, out: Path, *options: str) -> Path:
    """A shared library of one of the C++ files beside this one."""
    assert COMPILER is not None
    command = [COMPILER, "-std=c++17", "-O2", "-shared", "-fPIC", "-w", *options]
    command += ["-o", str(out), str(Path(__file__).with_name(source_file))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def build_kernels(dtype: str, folder: Path) -> Path:
    """The kernels of one dtype."""
    text = folder / f"{dtype}.inc"
    text.write_text(source(dtype), encoding="utf-8")
    options = (f"-DTHREADS={THREADS}", f"-DElement={C_TYPES[dtype]}", f'-DSOURCE="{text}"')
    return build("cuda_host.cpp", folder / f"{dtype}.so", "-ffp-contract=off", "-fno-strict-aliasing", *options)


@cache
def library(dtype: str) -> ctypes.CDLL:
    """The kernels of one dtype, loaded."""
    with tempfile.TemporaryDirectory() as folder:
        return ctypes.CDLL(str(build_kernels(dtype, Path(folder))))  # stays open when its file is gone


def activated(name: str, a: Any) -> Any:
    """sigmoid or tanh of every element."""
    out = np.empty_like(a)
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (a, out))
    library(a.dtype.name).activate(ctypes.c_bool(name == "tanh"), *pointers, ctypes.c_longlong(a.size))
    return out


def run(launch: Launch, arguments: tuple[int, ...], *, last: bool = False) -> None:
    """A launch, on the host's memory; or what the last thread of its last block does."""
    kernels = library(launch.dtype)
    size = map(ctypes.c_uint, (*launch.grid, *launch.block))
    block = (ctypes.c_longlong * len(arguments))(*arguments)
    launch_it = kernels.launch_last if last else kernels.launch
    launch_it(ctypes.cast(kernels[launch.kernel], ctypes.c_void_p), *size, block, len(arguments))


class HostArrays:
    """NumPy's arrays in the place of CuPy's; keeps the launches."""

    place = "cpu"

    def __init__(self) -> None:
        self.launches: list[Launch] = []

    def unavailable(self, device: Any) -> str | None:
        return MISSING

    def dtype_name(self, array: Any) -> str:
        return str(array.dtype)

    def compact(self, array: Any) -> Any:
        return np.ascontiguousarray(array)

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        """As a GPU's allocators, aligned; and full of what would be seen if it were read."""
        raw = np.full((int(np.prod(shape)) + 4) * like.dtype.itemsize, 255, np.uint8)  # NaN
        start = -raw.ctypes.data % 16
        return raw[start : start + int(np.prod(shape)) * like.dtype.itemsize].view(like.dtype).reshape(shape)

    def address(self, array: Any) -> int:
        return int(array.ctypes.data)

    def launch(self, launch: Launch, arguments: tuple[int, ...], like: Any) -> None:
        self.launches.append(launch)
        run(launch, arguments)


def host_gates() -> CudaGates:
    """The kernel door's object over the host build."""
    return CudaGates(HostArrays())
