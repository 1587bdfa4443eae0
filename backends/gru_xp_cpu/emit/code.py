"""Writing LLVM's language as if it were Python: numbers with operators, pointers, loops and branches.

A `Code` is one function of a module while it is being written. Integers have 64 bits. A real is a number of the
module's dtype, a vector is a full register of them. Wherever a value is expected, a plain Python number will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeAlias, TypeVar

from llvmlite import ir

from .module import I8, I32, I64, PTR, SIZE, Module

__all__ = ["Bytes", "Code", "Integer", "Integers", "Operand", "Pointer", "Reals", "Value", "Variable"]


class Operand:
    """What an instruction of some code may be given: a value or a pointer."""

    def __init__(self, code: Code, value: Any):
        self.code, self.ir = code, value


def _operator(on_integers: str, on_reals: str = "", *, swap: bool = False) -> Callable[[Value, Number], Value]:
    """An operator that is one of LLVM's instructions for integers, and another for reals."""

    def operate(self: Value, other: Number) -> Value:
        other = self.code.like(self, other)
        name = on_integers if isinstance(self.scalar, ir.IntType) else on_reals
        a, b = (other.ir, self.ir) if swap else (self.ir, other.ir)
        return Value(self.code, getattr(self.code.b, name)(a, b))

    return operate


def _comparison(sign: str) -> Callable[[Value, Number], Value]:
    def compare(self: Value, other: Number) -> Value:
        other = self.code.like(self, other)
        on_integers = isinstance(self.scalar, ir.IntType)
        instruction = self.code.b.icmp_signed if on_integers else self.code.b.fcmp_ordered
        return Value(self.code, instruction(sign, self.ir, other.ir))

    return compare


class Value(Operand):
    """A number or a vector of them, with Python's operators; integers are divided towards zero."""

    @property
    def scalar(self) -> Any:
        """The type of one number."""
        return getattr(self.ir.type, "element", self.ir.type)

    __add__ = __radd__ = _operator("add", "fadd")
    __sub__ = _operator("sub", "fsub")
    __rsub__ = _operator("sub", "fsub", swap=True)
    __mul__ = __rmul__ = _operator("mul", "fmul")
    __truediv__ = _operator("sdiv", "fdiv")
    __floordiv__ = _operator("sdiv")
    __rfloordiv__ = _operator("sdiv", swap=True)
    __mod__ = _operator("srem")
    __lshift__ = _operator("shl")
    __rshift__ = _operator("ashr")
    __and__ = _operator("and_")
    __or__ = _operator("or_")
    __xor__ = _operator("xor")
    __lt__, __le__ = _comparison("<"), _comparison("<=")
    __gt__, __ge__ = _comparison(">"), _comparison(">=")
    equals = _comparison("==")  # Python keeps == for itself

    def min(self, other: Integer) -> Value:
        """The smaller of two integers."""
        other = self.code.like(self, other)
        return self.code.select(self < other, self, other)

    def max(self, other: Integer) -> Value:
        """The greater of two integers."""
        other = self.code.like(self, other)
        return self.code.select(self > other, self, other)


#: what integers and numbers may be given as
Integer: TypeAlias = Value | int
Number: TypeAlias = Value | float


class Pointer(Operand):
    """An address of elements of one type; indices count elements."""

    @property
    def element(self) -> Any:
        raise NotImplementedError

    def at(self, index: Integer) -> Self:
        """The address of an element."""
        if isinstance(index, int) and index == 0:
            return self
        index = self.code.integer(index)
        return type(self)(self.code, self.code.b.gep(self.ir, [index.ir], source_etype=self.element))

    def moved(self, count: Integer) -> Self:
        """The address `count` bytes on. Never add to an address as an integer: LLVM 22 may lose it, see `pointer`."""
        return type(self)(self.code, self.code.b.gep(self.ir, [self.code.integer(count).ir], source_etype=I8))

    def integer(self) -> Value:
        """The address as an integer."""
        return Value(self.code, self.code.b.ptrtoint(self.ir, I64))

    def load(self, index: Integer = 0) -> Value:
        """One element."""
        return Value(self.code, self.code.b.load(self.at(index).ir, align=SIZE[self.element], typ=self.element))

    def store(self, value: Integer, index: Integer = 0) -> None:
        """Write one element."""
        if isinstance(value, int):
            value = Value(self.code, ir.Constant(self.element, value))
        self.code.b.store(value.ir, self.at(index).ir, align=SIZE[self.element])

    def prefetch(self) -> None:
        """Prefetch the cache line of this address to read; the address need not be valid."""
        kind = ir.FunctionType(ir.VoidType(), [PTR, I32, I32, I32])
        prefetch = self.code.intrinsic("llvm.prefetch.p0", kind)
        self.code.b.call(prefetch, [self.ir, I32(0), I32(3), I32(1)])  # to read, near, data


class Integers(Pointer):
    """An address of integers."""

    element = I64


class Bytes(Pointer):
    """An address of bytes."""

    element = I8


class Reals(Pointer):
    """An address of reals."""

    @property
    def element(self) -> Any:
        return self.code.module.real

    def load_vector(self, index: Integer = 0, mask: Value | None = None) -> Value:
        """A vector of elements; those outside the mask are not touched and read as zero."""
        module, address = self.code.module, self.at(index).ir
        if mask is None:
            return Value(self.code, self.code.b.load(address, align=module.size, typ=module.vector))
        kind = ir.FunctionType(module.vector, [PTR, I32, module.mask, module.vector])
        load = self.code.intrinsic(f"llvm.masked.load.{self.code.suffix}.p0", kind)
        zero = ir.Constant(module.vector, None)
        return Value(self.code, self.code.b.call(load, [address, I32(module.size), mask.ir, zero]))

    def store_vector(self, value: Value, index: Integer = 0, mask: Value | None = None) -> None:
        """Write a vector of elements, only those inside the mask."""
        module, address = self.code.module, self.at(index).ir
        if mask is None:
            self.code.b.store(value.ir, address, align=module.size)
            return
        kind = ir.FunctionType(ir.VoidType(), [module.vector, PTR, I32, module.mask])
        store = self.code.intrinsic(f"llvm.masked.store.{self.code.suffix}.p0", kind)
        self.code.b.call(store, [value.ir, address, I32(module.size), mask.ir])


P = TypeVar("P", bound=Pointer)


class Variable:
    """A value that changes; LLVM turns it into registers."""

    def __init__(self, code: Code, value: Value):
        self.code, self.kind = code, value.ir.type
        self.place = code.reserve(self.kind)
        self.set(value)

    def get(self) -> Value:
        """What it is now."""
        return Value(self.code, self.code.b.load(self.place, typ=self.kind))

    def set(self, value: Integer) -> None:
        """Change it."""
        self.code.b.store(self.code.integer(value).ir, self.place)


class Code:
    """One function while it is being written."""

    def __init__(self, module: Module, function: Any):
        self.module, self.function = module, function
        self.entry = function.append_basic_block("entry")
        self.start = function.append_basic_block("start")
        self.b = ir.IRBuilder(self.start)
        self.suffix = f"v{module.lanes}f{8 * module.size}"

    def finish(self) -> None:
        """Close the function."""
        ir.IRBuilder(self.entry).branch(self.start)

    # ---- values -----------------------------------------------------------------------------------------------------

    def like(self, value: Value, other: Number) -> Value:
        """A Python number as a constant of the same type as `value`."""
        if isinstance(other, Value):
            return other
        kind = value.ir.type
        if isinstance(kind, ir.VectorType):
            return Value(self, ir.Constant(kind, [other] * kind.count))
        return Value(self, ir.Constant(kind, other))

    def integer(self, value: Integer) -> Value:
        """An integer."""
        return value if isinstance(value, Value) else Value(self, I64(value))

    def constant(self, value: float) -> Value:
        """A vector that holds one number in all its lanes."""
        return Value(self, ir.Constant(self.module.vector, [value] * self.module.lanes))

    def splat(self, value: Value) -> Value:
        """A vector that holds one number, known at run time, in all its lanes."""
        kind = ir.VectorType(value.ir.type, self.module.lanes)
        nothing = ir.Constant(kind, ir.Undefined)
        one = self.b.insert_element(nothing, value.ir, I32(0))
        where = ir.Constant(ir.VectorType(I32, self.module.lanes), None)
        return Value(self, self.b.shuffle_vector(one, nothing, where))

    def first_lanes(self, count: Value) -> Value:
        """The mask of the first `count` lanes."""
        lanes = ir.Constant(ir.VectorType(I64, self.module.lanes), list(range(self.module.lanes)))
        return Value(self, lanes) < self.splat(count)

    def select(self, condition: Value, a: Number, b: Number) -> Value:
        """a where the condition holds, else b; at least one of them is a value."""
        if not isinstance(a, Value):
            assert isinstance(b, Value)
            a = self.like(b, a)
        return Value(self, self.b.select(condition.ir, a.ir, self.like(a, b).ir))

    def select_pointer(self, condition: Value, a: P, b: P) -> P:
        """As `select`."""
        return type(a)(self, self.b.select(condition.ir, a.ir, b.ir))

    def bits_of(self, value: Value) -> Value:
        """The bits of a vector of reals, as integers."""
        return Value(self, self.b.bitcast(value.ir, self.module.bits_vector))

    def reals_of(self, value: Value) -> Value:
        """The vector of reals that has these bits."""
        return Value(self, self.b.bitcast(value.ir, self.module.vector))

    def largest(self, vector: Value) -> Value:
        """The largest of the signed integers of a vector."""
        kind = vector.ir.type
        name = f"llvm.vector.reduce.smax.v{kind.count}i{kind.element.width}"
        return Value(self, self.b.call(self.intrinsic(name, ir.FunctionType(kind.element, [kind])), [vector.ir]))

    def shuffle(self, a: Value, b: Value, where: Sequence[int]) -> Value:
        """Lanes of a and, counted on, of b."""
        lanes = ir.Constant(ir.VectorType(I32, len(where)), list(where))
        return Value(self, self.b.shuffle_vector(a.ir, b.ir, lanes))

    def intrinsic(self, name: str, kind: Any) -> Any:
        """One of LLVM's own functions, of some type."""
        found = self.module.ir.globals.get(name)
        return found if found is not None else ir.Function(self.module.ir, kind, name)

    def lanewise(self, name: str, *values: Value) -> Value:
        """One of LLVM's functions that work on each lane."""
        kind = ir.FunctionType(self.module.vector, [self.module.vector] * len(values))
        return Value(self, self.b.call(self.intrinsic(f"llvm.{name}.{self.suffix}", kind), [v.ir for v in values]))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        return self.lanewise("fma", a, b, c)

    # ---- memory -----------------------------------------------------------------------------------------------------

    def pointer(self, kind: type[P], address: Operand) -> P:
        """An address, as an integer or a pointer of another kind, of elements of some kind.

        An integer has to be as it was in memory or among the arguments: numba/numba#10695 has wrong results of LLVM
        22, where one that had been computed became an address.
        """
        value = address.ir if address.ir.type == PTR else self.b.inttoptr(address.ir, PTR)
        return kind(self, value)

    def null(self, kind: type[P]) -> P:
        """The address of nothing."""
        return kind(self, ir.Constant(PTR, None))

    def reserve(self, kind: Any, count: int = 1) -> Any:
        """Memory on the stack."""
        return ir.IRBuilder(self.entry).alloca(kind, size=I64(count))

    def stack_vectors(self, count: int) -> Reals:
        """Memory for vectors on the stack, aligned."""
        place = self.reserve(self.module.vector, count)
        place.align = 64
        return Reals(self, place)

    def stack_integers(self, count: int) -> Integers:
        """Memory for integers on the stack."""
        return Integers(self, self.reserve(I64, count))

    # ---- control ----------------------------------------------------------------------------------------------------

    def variable(self, value: Integer) -> Variable:
        """A value that changes."""
        return Variable(self, self.integer(value))

    @contextmanager
    def loop(self, start: Integer, stop: Integer, step: Integer = 1) -> Iterator[Value]:
        """for i in range(start, stop, step)"""
        with self.loop_while(start, lambda i: i < stop) as index:
            i = index.get()
            yield i
            index.set(i + step)

    @contextmanager
    def loop_while(self, start: Integer, condition: Callable[[Value], Value]) -> Iterator[Variable]:
        """While the condition of a variable holds; the body has to change it."""
        index = self.variable(start)
        head, body, done = (self.function.append_basic_block(name) for name in ("head", "body", "done"))
        self.b.branch(head)
        self.b.position_at_end(head)
        self.b.cbranch(condition(index.get()).ir, body, done)
        self.b.position_at_end(body)
        yield index
        self.b.branch(head)
        self.b.position_at_end(done)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """if condition:"""
        body, done = self.function.append_basic_block("then"), self.function.append_basic_block("done")
        self.b.cbranch(condition.ir, body, done)
        self.b.position_at_end(body)
        yield
        self.b.branch(done)
        self.b.position_at_end(done)

    def either(self, condition: Value, then: Callable[[], object], otherwise: Callable[[], object]) -> None:
        """if condition: then() else: otherwise()"""
        yes, no, done = (self.function.append_basic_block(name) for name in ("then", "else", "done"))
        self.b.cbranch(condition.ir, yes, no)
        for block, write in ((yes, then), (no, otherwise)):
            self.b.position_at_end(block)
            write()
            self.b.branch(done)
        self.b.position_at_end(done)

    def masked(self, count: Value, write: Callable[[Value | None], None]) -> None:
        """Write code for full vectors and again for a vector of which only the first `count` lanes count."""
        full = count >= self.module.lanes
        self.either(full, lambda: write(None), lambda: write(self.first_lanes(count)))
