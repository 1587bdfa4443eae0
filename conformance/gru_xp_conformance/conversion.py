"""Conversion: arrays of every other library, computed on the backend that is judged because GRU_XP_BACKEND says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gru_xp.discovery import available, load
from gru_xp.errors import DTypeError

from .cases import EVERYTHING, Case
from .environment import variables
from .implementation import Arguments
from .judge import Judge, MismatchError, NotRunError, Target
from .problems import of_forward, of_gradients

__all__ = ["conversion_cases"]

QUICK = ("numpy", "torch")


def conversion_cases() -> Iterator[Case]:
    """A case for each library whose arrays may come."""
    for name in available():
        yield Case(
            "conversion",
            f"arrays of {name}",
            "results of another library, device or dtype than the caller's, or computed elsewhere than was asked for",
            _from(name),
            quick=name in QUICK,
            rows="plain",
        )
    yield Case(
        "conversion",
        "read-only, reversed and foreign-endian NumPy arrays",
        "values read through the wrong strides or bytes, an array written to behind its owner's back",
        _strange_arrays,
        quick=False,
        rows="plain",
    )
    yield Case(
        "conversion",
        "a dtype that is not there",
        "float64 that silently becomes float32",
        _no_float64,
        quick=False,
        rows="plain",
    )


def _from(name: str) -> Callable[[Judge], None]:
    def check(judge: Judge) -> None:
        if load(name).takes_whole_calls:
            raise NotRunError(f"{name} has its arrays computed by chunks; nothing is brought here")
        device = next(iter(load(name).devices()))
        if (name, device) == (judge.target.name, judge.target.device):
            raise NotRunError("computed where they are; see the other groups")
        caller = Judge(Target(name, device), judge.dtype, judge.gru)
        if judge.dtype not in caller.backend.float_names():
            raise NotRunError(f"{name} has no {judge.dtype}")
        _assert_same_numbers(judge, caller, caller.arguments(EVERYTHING))

    return check


def _assert_same_numbers(judge: Judge, caller: Judge, args: Arguments) -> None:
    """The caller's arrays come back as the caller's, with the numbers of the backend that is judged."""
    here = judge.arguments(EVERYTHING)
    with variables(GRU_XP_BACKEND=f"{judge.target.name}:{judge.target.device}"):
        y, h_n = caller.inference(EVERYTHING, args)
        y_f, h_f, tape = caller.forward(EVERYTHING, args)
        got = [*of_forward(y, h_n), *of_forward(y_f, h_f)]
        got += of_gradients(caller.gru.gru_backward(tape, args.dy, args.dh_n))
    y, h_n = judge.inference(EVERYTHING, here)
    y_f, h_f, tape_here = judge.forward(EVERYTHING, here)
    wanted = [*of_forward(y, h_n), *of_forward(y_f, h_f)]
    wanted += of_gradients(judge.gru.gru_backward(tape_here, here.dy, here.dh_n))
    for (quantity, a), (_, b) in zip(got, wanted, strict=True):
        caller.assert_belongs(a, str(quantity), tuple(b.shape))
        if hasattr(a, "flags") and hasattr(a.flags, "writeable") and not a.flags.writeable:
            raise MismatchError(f"{quantity}: expected a writable array, got a read-only one")
        if not np.array_equal(caller.host(a), judge.host(b)):
            raise MismatchError(f"{quantity}: expected the numbers of {judge.target}, got others")
    judge.assert_forward(EVERYTHING, y, h_n)
    judge.assert_belongs(tape.layers[0][0].x, "tape.layers[0][0].x", (EVERYTHING.T, EVERYTHING.N, EVERYTHING.I))


def _strange_arrays(judge: Judge) -> None:
    if judge.target.name == "numpy":
        raise NotRunError("computed where they are; see the group memory")
    caller = Judge(Target("numpy", "cpu"), judge.dtype, judge.gru)

    def locked(a: Any) -> Any:
        a.flags.writeable = False
        return a

    def reversed_view(a: Any) -> Any:
        return a[::-1].copy()[::-1]

    def swapped(a: Any) -> Any:
        return a if a.dtype == bool else a.astype(a.dtype.newbyteorder())

    for name, view in (("read-only", locked), ("reversed", reversed_view), ("of foreign byte order", swapped)):
        args = Arguments.of(caller.arguments(EVERYTHING), view)
        before = args.x.copy()
        try:
            _assert_same_numbers(judge, caller, args)
        except MismatchError as mismatch:
            raise MismatchError(f"arrays {name}: {mismatch}") from None
        if not np.array_equal(args.x, before):
            raise MismatchError(f"x: expected to be as before ({name}), got written to")


def _no_float64(judge: Judge) -> None:
    if "float64" in judge.backend.float_names() or judge.dtype != "float32":
        raise NotRunError(f"{judge.target.name} has float64")
    caller = Judge(Target("numpy", "cpu"), "float64", judge.gru)
    args = caller.arguments(replace(EVERYTHING))
    with variables(GRU_XP_BACKEND=f"{judge.target.name}:{judge.target.device}"):
        try:
            y, _ = caller.inference(EVERYTHING, args)
        except DTypeError:
            return
    raise MismatchError(f"float64 on {judge.target.name}: expected a DTypeError, got {y.dtype}")
