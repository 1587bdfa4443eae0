"""Addresses in the code that kernels are compiled from: none is computed as an integer.

LLVM 22 may lose what an address belongs to where an integer that was added to becomes one; it then gives wrong results
(numba/numba#10695). So an integer becomes an address only as it was in memory or among the arguments.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("llvmlite")

import llvmlite.binding as llvm

from gru_xp_cpu.calling.kernel import build
from gru_xp_cpu.emit.code import Bytes, Code, Integers, Value
from gru_xp_cpu.emit.compiler import optimized
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import Module
from gru_xp_cpu.emit.target import DType, Target, current
from gru_xp_cpu.threads.launching import build as build_threads

#: what an integer may come from; what only hands one on
FROM, ON = {"load", "ptrtoint", "call", "cmpxchg", "atomicrmw", "extractvalue"}, {"phi", "select", "freeze"}
DEFINED = re.compile(r"^ *(%[\w.\"-]+) = (?:tail |notail |musttail )?([a-z]+)(.*)$", re.MULTILINE)


def computed_addresses(text: str) -> list[str]:
    """The lines of a module that make an address of an integer which was computed, or move one from null."""
    found = [line for line in text.splitlines() if "getelementptr" in line and "ptr null" in line]
    for body in re.findall(r"^define .*?^}", text, re.MULTILINE | re.DOTALL):
        made = {name: (operation, rest) for name, operation, rest in DEFINED.findall(body)}

        def is_computed(name: str, seen: set[str], made: dict[str, Any] = made) -> bool:
            if name in seen or name not in made:  # an argument, or of a loop
                return False
            operation, rest = made[name]
            if operation in ON:
                rest = rest.partition(",")[2] if operation == "select" else rest  # without the condition
                return any(is_computed(other, seen | {name}) for other in re.findall(r"%[\w.\"-]+", rest))
            return operation not in FROM

        for name, (operation, rest) in made.items():
            if operation == "inttoptr" and any(is_computed(of, set()) for of in re.findall(r"%[\w.\"-]+", rest)):
                found.append(f"{name} = {operation}{rest}")
        found += [line for line in body.splitlines() if "inttoptr (" in line]
    return found


TARGETS = {"this": current(), "arm": Target(128, 32, "aarch64-unknown-linux-gnu", "generic", "+neon", x86=False)}
MODULES = [
    ("forward", "float32"),
    ("backward", "float64"),
    ("forward", "float16"),
    ("backward", "bfloat16"),
    ("integers", "float32"),
    ("fixed", "float32"),
    ("threads", "float32"),
]


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize(("kind", "dtype"), MODULES)
def test_no_address_is_computed_as_an_integer(kind: Any, dtype: DType, target: Target) -> None:
    """Neither as it is written nor, where variables have become registers, as it is compiled."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = (build_threads if kind == "threads" else build)(target, kind, dtype)
    for text in (str(module.ir), str(optimized(module))):
        assert "inttoptr" in text
        assert not computed_addresses(text)


@function
def wrong(c: Code, place: Integers, far: Value) -> None:
    c.pointer(Integers, place.load() + far).store(0)


@function
def right(c: Code, place: Integers, far: Value) -> None:
    c.pointer(Bytes, place.load()).moved(far).store(0)


@pytest.mark.parametrize(("write", "count"), [(wrong, 1), (right, 0)])
def test_such_an_address_is_found(write: Any, count: int) -> None:
    module = Module(current(), "float32")
    write.export(module, "write")
    assert len(computed_addresses(str(module.ir))) == len(computed_addresses(str(optimized(module)))) == count
