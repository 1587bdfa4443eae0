"""Reals of 16 bits in memory, as kernels load and store them, at every width: all numbers, and every rounding."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("llvmlite")

from gru_xp import CellParams
from gru_xp.errors import DTypeError
from gru_xp.interfaces import Options
from gru_xp_cpu import BITS, numpy_layer
from gru_xp_cpu.emit.code import Code, Reals, Value
from gru_xp_cpu.emit.compiler import Machine, image_of
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import Module
from gru_xp_cpu.emit.stored import Stored, rounded
from gru_xp_cpu.emit.target import _target, widths

DTYPES = {"float16": np.dtype("f2"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
COUNT = (1 << 16) - 3  # not a whole number of vectors


@function
def widen(c: Code, source: Reals, target: Reals, count: Value) -> None:
    numbers = c.pointer(Stored, source)
    with c.loop(0, count, c.module.lanes) as i:
        c.masked(count - i, lambda mask: target.store_vector(numbers.load_vector(i, mask), i, mask))
    target.store(numbers.load(count - 1), count - 1)  # one alone


@function
def narrow(c: Code, source: Reals, target: Reals, count: Value) -> None:
    numbers = c.pointer(Stored, target)
    with c.loop(0, count, c.module.lanes) as i:
        c.masked(count - i, lambda mask: numbers.store_vector(source.load_vector(i, mask), i, mask))
    numbers.store(source.load(count - 1), count - 1)


@function
def round_trip(c: Code, source: Reals, target: Reals, count: Value) -> None:
    with c.loop(0, count, c.module.lanes) as i:
        c.masked(count - i, lambda mask: target.store_vector(rounded(c, source.load_vector(i, mask)), i, mask))


@cache
def compiled(bits: int, dtype: str) -> Machine:
    module = Module(_target(bits), dtype)  # type: ignore[arg-type]
    for each in (widen, narrow, round_trip):
        each.export(module, each.__name__)
    return Machine(_target(bits), image_of(module))


def apply(name: str, bits: int, dtype: str, a: Any, out: Any) -> Any:
    """The first COUNT of `a`, into `out`, which is one longer."""
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(compiled(bits, dtype).address(name))(
        a.ctypes.data, out.ctypes.data, COUNT
    )
    return out


def same(a: Any, b: Any) -> bool:
    """The same numbers with the same signs; one NaN is as good as another."""
    a, b = a.astype("f4"), b.astype("f4")
    nan = np.isnan(b)
    return np.array_equal(np.isnan(a), nan) and np.array_equal(a[~nan].view("u4"), b[~nan].view("u4"))


@pytest.mark.parametrize("bits", widths())
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_is_loaded_as_it_is(dtype: str, bits: int) -> None:
    numbers = np.arange(1 << 16).astype("u2").view(DTYPES[dtype])
    for first in (0, 5):  # so that the last ones are among them too
        a = np.roll(numbers, first)
        out = apply("widen", bits, dtype, a, np.full(COUNT + 1, 7, "f4"))
        assert same(out[:COUNT], a[:COUNT]) and out[COUNT] == 7


@pytest.mark.parametrize("bits", widths())
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_is_stored_as_the_nearest_one(dtype: str, bits: int) -> None:
    """Also what lies half way, just beside it, above the largest number and among the subnormal ones; NaN stays NaN."""
    rng, kind = np.random.default_rng(0), DTYPES[dtype]
    each = np.arange(1 << 16).astype("u2").view(kind).astype("f4")
    upper = (np.arange(1 << 16).astype("u2") + np.uint16(1)).view(kind).astype("f4")
    with np.errstate(invalid="ignore", over="ignore"):
        half = ((each.astype("f8") + upper.astype("f8")) / 2).astype("f4")
    patterns = rng.integers(0, 1 << 32, 1 << 16, np.uint32).view("f4")
    for a in (each, half, np.nextafter(half, np.float32(0)), np.nextafter(half, np.float32(np.inf)), patterns):
        with np.errstate(over="ignore", invalid="ignore"):
            wanted = a[:COUNT].astype(kind)
        out = apply("narrow", bits, dtype, a, np.full(COUNT + 1, 7, kind))
        assert same(out[:COUNT], wanted) and out[COUNT] == 7
        assert same(apply("round_trip", bits, dtype, a, np.full(COUNT + 1, 7, "f4"))[:COUNT], wanted)


def test_integers_are_not_taken_for_the_bits_of_bfloat16() -> None:
    for dtype in ("u2", "i2", [("other", "u2")], "V2"):
        w = CellParams(np.zeros((12, 3), dtype), np.zeros((12, 4), dtype), np.zeros(12, dtype), np.zeros(12, dtype))
        with pytest.raises(DTypeError, match="expected float32, float64, float16 or bfloat16, got"):
            numpy_layer.inference(np.zeros((5, 2, 3), dtype), np.zeros((2, 4), dtype), w, Options())


def test_one_call_has_one_dtype() -> None:
    """Arrays of half the bytes would be read beyond their ends."""
    x, h0 = np.ones((5, 2, 3), "f2"), np.ones((2, 4), "f2")
    w = CellParams(np.ones((12, 3), "f2"), np.ones((12, 4), "f2"), np.ones(12, "f2"), np.ones(12, "f2"))
    _, _, tape = numpy_layer.forward(x, h0, w, Options(save="all"))
    for other in ("f4", ml_dtypes.bfloat16, BITS):
        with pytest.raises(DTypeError, match="h0: expected float16, as x has"):
            numpy_layer.inference(x, np.zeros((2, 4), other), w, Options())
        with pytest.raises(DTypeError, match="W_hh: expected float16, as x has"):
            numpy_layer.inference(x, h0, w._replace(W_hh=np.zeros((12, 4), other)), Options())
        if other != "f4":
            with pytest.raises(DTypeError, match="tape.r: expected float32, as gates over float16 have"):
                numpy_layer.backward(tape._replace(r=np.zeros((5, 2, 4), other)), None, h0)
