"""The activations of the fused CPU kernels, lane by lane, at every width: accuracy, range, tails, NaN."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from gru_xp_cpu.emit.code import Code, Reals, Value
from gru_xp_cpu.emit.compiler import Machine, image_of
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import Module
from gru_xp_cpu.emit.target import _target, widths
from gru_xp_cpu.passes.activations import sigmoid, tanh

ULP = 4.0  # what the kernels promise


@function
def each(c: Code, source: Reals, target: Reals, count: Value, *, name: str) -> None:
    with c.loop(0, count, c.module.lanes) as i:
        target.store_vector({"sigmoid": sigmoid, "tanh": tanh}[name](c, source.load_vector(i)), i)


@cache
def compiled(bits: int, dtype: str) -> Machine:
    module = Module(_target(bits), dtype)
    for name in ("sigmoid", "tanh"):
        each.export(module, name, name=name)
    return Machine(_target(bits), image_of(module))


def apply(name: str, a: Any, bits: int) -> Any:
    out = np.empty_like(a)
    assert a.size % 16 == 0
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(compiled(bits, a.dtype.name).address(name))
    function(a.ctypes.data, out.ctypes.data, a.size)
    return out


def exact(name: str, a: Any) -> Any:
    """In long double."""
    a = a.astype(np.longdouble)
    with np.errstate(over="ignore", under="ignore"):
        return np.tanh(a) if name == "tanh" else np.where(a < 0, np.exp(a) / (1 + np.exp(a)), 1 / (1 + np.exp(-a)))


def arguments(dtype: str) -> Any:
    rng = np.random.default_rng(0)
    far = {"float32": 110.0, "float64": 750.0}[dtype]
    small = np.exp(rng.uniform(np.log(1e-30), np.log(1.0), 1 << 15))
    return np.concatenate(
        [rng.uniform(-1, 1, 1 << 16), rng.uniform(-12, 12, 1 << 16), rng.uniform(-far, far, 1 << 16), small, -small]
    ).astype(dtype)


@pytest.mark.parametrize("bits", widths())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_a_few_units_in_the_last_place(name: str, dtype: str, bits: int) -> None:
    a = arguments(dtype)
    got, want = apply(name, a, bits), exact(name, a)
    apart = np.abs(got - want) / np.spacing(np.abs(want).astype(dtype))
    worst = int(np.argmax(apart))
    assert apart[worst] <= ULP, f"{name}({a[worst]!r}) = {got[worst]!r}, {float(apart[worst]):.2f} units off"
    assert np.all(got <= 1) and np.all(got >= (0 if name == "sigmoid" else -1))


@pytest.mark.parametrize("bits", widths())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_infinities_nan_zeros_and_subnormals(dtype: str, bits: int) -> None:
    inf, nan, tiny = np.inf, np.nan, float(np.finfo(dtype).smallest_subnormal)
    a = np.array([inf, -inf, nan, -nan, 0.0, -0.0, 1e30, -1e30, tiny, -tiny, 100.0, 50.0, 20.0, 0.0, 0.0, 0.0], dtype)
    s, t = apply("sigmoid", a, bits), apply("tanh", a, bits)
    np.testing.assert_array_equal(s[:8], np.array([1, 0, nan, nan, 0.5, 0.5, 1, 0], dtype))
    np.testing.assert_array_equal(t[:8], np.array([1, -1, nan, nan, 0.0, -0.0, 1, -1], dtype))
    np.testing.assert_array_equal(np.signbit(t[4:6]), [False, True])
    np.testing.assert_array_equal(t[8:11], np.array([tiny, -tiny, 1], dtype))
    assert s[10] == 1 and s[11] == 1
