"""The logistic function and the hyperbolic tangent on a vector, both from one exponential.

Accurate to a few units in the last place everywhere, subnormal results included; never out of range; NaN stays NaN.

    x = n ln 2 + f, n whole, |f| <= ln 2 / 2      expm1(f) = f + f f q(f), q from Taylor's series
    sigmoid(a) = E / (1 + E)                          E = exp(a) = 2**n (1 + expm1(f)), a no more than where it is 1
    tanh(a)    = -M / (2 + M) with the sign of a      M = expm1(-2 |a|) = 2**n expm1(f) + (2**n - 1)

With AVX-512 and float32 the division is the 14-bit estimate of the reciprocal and one step of Newton's method, which
costs 3 instead of 16 cycles.
"""

from __future__ import annotations

from math import factorial, log

import numpy as np
from llvmlite import ir

from gru_xp_cpu.emit.code import Code, Value

__all__ = ["sigmoid", "tanh"]

#: terms of the series, the argument at which exp is below half the smallest subnormal, and from which on both are 1
SERIES = {"float32": 8, "float64": 14}
UNDERFLOW = {"float32": -104.0, "float64": -746.0}
SATURATED = {"float32": 20.0, "float64": 40.0}


def sigmoid(c: Code, a: Value) -> Value:
    """The logistic function, lane by lane."""
    dtype = c.module.dtype
    most = c.constant(SATURATED[dtype])
    p, n = _expm1(c, _at_least(c, c.select(a > most, most, a), c.constant(UNDERFLOW[dtype])))
    lift = 64 if dtype == "float32" else 512  # two factors, so that a subnormal result is rounded once
    s = _power(c, n + lift)
    e = c.fma(p, s, s) * 2.0**-lift
    return _quotient(c, e, e + 1.0)


def tanh(c: Code, a: Value) -> Value:
    """The hyperbolic tangent, lane by lane."""
    x = _at_least(c, c.lanewise("fabs", a) * -2.0, c.constant(-SATURATED[c.module.dtype]))
    p, n = _expm1(c, x)
    s = _power(c, n)
    m = c.fma(p, s, s - 1.0)
    return c.lanewise("copysign", _quotient(c, m, m + 2.0), a)


def _at_least(c: Code, x: Value, floor: Value) -> Value:
    """max(x, floor), NaN kept."""
    return c.select(x < floor, floor, x)


def _expm1(c: Code, x: Value) -> tuple[Value, Value]:
    """expm1(f) and n of x = n ln 2 + f, n as integers."""
    real = np.dtype(c.module.dtype).type
    shifter = 1.5 * 2.0**c.module.mantissa  # a sum with it is rounded to a whole number, which is in its last bits
    rounded = c.fma(x, c.constant(1 / log(2)), c.constant(shifter))
    n = rounded - shifter
    high = float(real(log(2)))
    low = _LOG2_REST[c.module.dtype]
    f = c.fma(n, c.constant(-high), x)
    f = c.fma(n, c.constant(-low), f)
    terms = [c.constant(1.0 / factorial(k)) for k in range(2, SERIES[c.module.dtype])]
    square = f * f
    # two terms at once: the chain of operations that wait for each other is half as long
    pairs = [c.fma(odd, f, even) for even, odd in zip(terms[::2], terms[1::2], strict=True)]
    q = pairs[-1]
    for pair in pairs[-2::-1]:
        q = c.fma(q, square, pair)
    return c.fma(square, q, f), c.bits_of(rounded)


#: ln 2 - high, high being ln 2 rounded to the type
_LOG2_REST = {"float32": -1.904654299957768e-09, "float64": 2.3190468138462996e-17}


def _power(c: Code, n: Value) -> Value:
    """2.0**n from the integers that `_expm1` leaves; the bits above them are shifted out."""
    bias = (1 << (8 if c.module.dtype == "float32" else 11) - 1) - 1
    return c.reals_of((n + bias) << c.module.mantissa)


def _quotient(c: Code, a: Value, d: Value) -> Value:
    """a / d, which is at most 1, for d from 1 on."""
    if c.module.target.bits != 512 or c.module.dtype != "float32":
        return a / d
    kind = ir.FunctionType(c.module.vector, [c.module.vector, c.module.vector, ir.IntType(16)])
    estimate = c.intrinsic("llvm.x86.avx512.rcp14.ps.512", kind)
    q = Value(c, c.b.call(estimate, [d.ir, ir.Constant(c.module.vector, None), ir.IntType(16)(-1)]))
    q = a * c.fma(q, c.fma(-1.0 * d, q, c.constant(1.0)), q)
    return c.select(q > 1.0, 1.0, q)
