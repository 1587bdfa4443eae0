"""A module of LLVM: what is compiled together, for one target and arrays of one dtype; the types of what is in it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .target import DType, Target, Wide, computed_in

__all__ = ["I1", "I8", "I16", "I32", "I64", "LINE", "PTR", "SIZE", "Module"]

#: bytes of a cache line
LINE = 64
I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
PTR = ir.PointerType()
SIZE = {I8: 1, I16: 2, I64: 8, PTR: 8, ir.FloatType(): 4, ir.DoubleType(): 8}


class Module:
    """Functions that are compiled together."""

    def __init__(self, target: Target, dtype: DType):
        self.target, self.lanes = target, target.lanes(dtype)
        self.stored: DType = dtype  # of the arrays of calls
        self.dtype: Wide = computed_in(dtype)
        self.narrow = self.stored != self.dtype
        self.functions: dict[Any, Any] = {}  # that are written, see `function`
        self.ir = ir.Module("gru_xp")
        self.ir.triple = target.triple
        self.real: Any = ir.FloatType() if self.dtype == "float32" else ir.DoubleType()
        self.size = SIZE[self.real]
        self.bits = ir.IntType(8 * self.size)
        self.vector = ir.VectorType(self.real, self.lanes)
        self.bits_vector = ir.VectorType(self.bits, self.lanes)
        self.mask = ir.VectorType(I1, self.lanes)
        self.mantissa = 23 if self.dtype == "float32" else 52
