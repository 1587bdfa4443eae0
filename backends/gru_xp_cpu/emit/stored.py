"""Reals of 16 bits in memory: widened when they are loaded, rounded to nearest, ties to even, when they are stored."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .code import Code, Integer, Reals, Value
from .module import I16, I32, PTR, Module

__all__ = ["Stored", "rounded", "stored_in"]


class Stored(Reals):
    """An address of reals of 16 bits; what is loaded and stored are the module's reals."""

    @property
    def element(self) -> Any:
        return I16

    def load(self, index: Integer = 0) -> Value:
        """One number."""
        return _widened(self.code, super().load(index))

    def store(self, value: Integer, index: Integer = 0) -> None:
        """Write one number."""
        assert isinstance(value, Value)
        super().store(_narrowed(self.code, value), index)

    def load_vector(self, index: Integer = 0, mask: Value | None = None) -> Value:
        """As `Reals.load_vector`."""
        c, address, kind = self.code, self.at(index).ir, ir.VectorType(I16, self.code.module.lanes)
        if mask is None:
            return _widened(c, Value(c, c.b.load(address, align=2, typ=kind)))
        load = c.intrinsic(
            f"llvm.masked.load.v{kind.count}i16.p0", ir.FunctionType(kind, [PTR, I32, c.module.mask, kind])
        )
        return _widened(c, Value(c, c.b.call(load, [address, I32(2), mask.ir, ir.Constant(kind, None)])))

    def store_vector(self, value: Value, index: Integer = 0, mask: Value | None = None) -> None:
        """As `Reals.store_vector`."""
        c, address, bits = self.code, self.at(index).ir, _narrowed(self.code, value).ir
        if mask is None:
            c.b.store(bits, address, align=2)
            return
        kind = ir.FunctionType(ir.VoidType(), [bits.type, PTR, I32, c.module.mask])
        c.b.call(c.intrinsic(f"llvm.masked.store.v{bits.type.count}i16.p0", kind), [bits, address, I32(2), mask.ir])


def stored_in(module: Module) -> type[Reals]:
    """The kind of addresses that a module's arrays have."""
    return Stored if module.narrow else Reals


def rounded(c: Code, value: Value) -> Value:
    """A vector rounded to what the module's arrays hold."""
    return _widened(c, _narrowed(c, value)) if c.module.narrow else value


def _like(value: Value, scalar: Any) -> Any:
    """The type of a number, or of a vector of as many as `value` has."""
    kind = value.ir.type
    return ir.VectorType(scalar, kind.count) if isinstance(kind, ir.VectorType) else scalar


def _widened(c: Code, bits: Value) -> Value:
    real = _like(bits, c.module.real)
    if c.module.stored == "float16":
        return Value(c, c.b.fpext(c.b.bitcast(bits.ir, _like(bits, ir.HalfType())), real))
    wide = Value(c, c.b.zext(bits.ir, _like(bits, I32))) << 16
    return Value(c, c.b.bitcast(wide.ir, real))


def _narrowed(c: Code, value: Value) -> Value:
    short = _like(value, I16)
    if c.module.stored == "float16":
        return Value(c, c.b.bitcast(c.b.fptrunc(value.ir, _like(value, ir.HalfType())), short))
    # by integers: the instruction of AVX512_BF16 takes subnormal numbers for zeros
    bits = Value(c, c.b.bitcast(value.ir, _like(value, I32)))
    nearest = bits + 0x7FFF + ((bits >> 16) & 1)
    nan = Value(c, c.b.fcmp_unordered("uno", value.ir, value.ir))
    upper = c.select(nan, bits | 0x400000, nearest) >> 16  # a NaN stays one, whichever of its bits are cut off
    return Value(c, c.b.trunc(upper.ir, short))
