"""Compile a module at its first use, and keep the object file on disk.

A file in the cache (`gru_xp.cache`) is named by this package's source, LLVM, the processor with its features, the width
and the dtype.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import llvmlite
import llvmlite.binding as llvm

from gru_xp import cache as disk

from .target import DType, Target

if TYPE_CHECKING:
    from .module import Module

__all__ = ["Machine", "image_of", "is_kept", "lock", "machine", "optimized", "source_digest"]

Kind = TypeVar("Kind", bound=str)

#: what LLVM does before it chooses instructions. Seen with LLVM 22: these take a third of the time of its "O2", and the
#: kernels are as fast; without the first two or the last four the smallest calls took 10 to 18 % longer
PASSES = (
    "ipsccp",
    "global_opt",
    "sroa",
    "instruction_combine",
    "simplify_cfg",
    "loop_rotate",
    "post_order_function_attributes",
    "new_gvn",
    "simplify_cfg",
)

_locks = [threading.RLock()]


class Machine:
    """Compiled code: `address(name)` of its public functions."""

    def __init__(self, target: Target, image: bytes):
        empty = llvm.parse_assembly("")
        empty.triple = target.triple
        # llvmlite's memory manager keeps all sections of an image in one block. LLVM's own (seen with 22) may put code
        # and constants more than 2 GB apart in a full address space, as JAX makes it, and then aborts the process.
        self._engine = llvm.create_mcjit_compiler(empty, _llvm_machine(target), use_lmm=True)
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(image))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        found: int = self._engine.get_function_address(name)
        return found


def _llvm_machine(target: Target) -> Any:
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="small"
    )


def machine(target: Target, kind: Kind, dtype: DType, build: Callable[[Target, Kind, DType], Module]) -> Machine:
    """The code of one kind ("forward", "backward", "threads"): from memory, from disk, or built and compiled now."""
    with lock():
        return _machine(target, kind, dtype, build)


def lock() -> threading.RLock:
    """What is made once in a process is made under it."""
    return _locks[0]


@cache
def _machine(target: Target, kind: Kind, dtype: DType, build: Callable[[Target, Kind, DType], Module]) -> Machine:
    return Machine(target, _image(target, kind, dtype, build))


def _image(target: Target, kind: Kind, dtype: DType, build: Callable[[Target, Kind, DType], Module]) -> bytes:
    path = _path(target, kind, dtype)
    image = disk.read(path)
    if image is None:
        image = image_of(build(target, kind, dtype))
        disk.write(path, image)
    return image


def is_kept(target: Target, kind: Kind, dtype: DType, build: Callable[[Target, Kind, DType], Module]) -> bool:
    """Whether the code is on disk, after it has been put there if that can be done."""
    with lock():
        _image(target, kind, dtype, build)
    return disk.read(_path(target, kind, dtype)) is not None


def image_of(module: Module) -> bytes:
    """The object file of a module."""
    image: bytes = _llvm_machine(module.target).emit_object(optimized(module))
    return image


def optimized(module: Module) -> Any:
    """A module as LLVM has it before it chooses instructions."""
    parsed, passes = llvm.parse_assembly(str(module.ir)), llvm.create_new_module_pass_manager()
    parsed.verify()
    for name in PASSES:
        getattr(passes, f"add_{name}_pass")()
    tuning = llvm.create_pipeline_tuning_options()
    passes.run(parsed, llvm.create_pass_builder(_llvm_machine(module.target), tuning))
    return parsed


# ---- on disk --------------------------------------------------------------------------------------------------------


@cache
def source_digest() -> bytes:
    """A digest of this package's source."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.digest()


def _path(target: Target, kind: str, dtype: DType) -> Path | None:
    try:
        key: list[Any] = [source_digest(), llvmlite.__version__, llvm.llvm_version_info, target, kind, dtype]
    except OSError:  # the package is in an archive, say
        return None
    return disk.place("cpu", f"{kind}-{dtype}-{target.bits}", ".o", key)


def _after_fork() -> None:
    _locks[0] = threading.RLock()  # another thread may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
