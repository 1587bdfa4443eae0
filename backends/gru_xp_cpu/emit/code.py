"""Writing LLVM's language as if it were Python: numbers with operators, pointers, loops and branches.

A `Unit` is what is compiled at once, for one target and one dtype; a `Code` is one of its functions while it is
written. Integers have 64 bits. A `real` is the unit's floating-point type, a vector is a full register of them. Plain
Python numbers may stand wherever a value is expected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from .target import Target

__all__ = ["Code", "Pointer", "Unit", "Value", "Variable"]

#: bytes of a cache line
LINE = 64
I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
PTR = ir.PointerType()
SIZE = {I8: 1, I64: 8, PTR: 8, ir.FloatType(): 4, ir.DoubleType(): 8}


class Unit:
    """Functions that are compiled together."""

    def __init__(self, target: Target, dtype: str):
        self.target, self.dtype, self.lanes = target, dtype, target.lanes(dtype)
        self.module = ir.Module("gru_xp")
        self.module.triple = target.triple
        self.real: Any = ir.FloatType() if dtype == "float32" else ir.DoubleType()
        self.size = SIZE[self.real]
        self.bits = ir.IntType(8 * self.size)
        self.vector = ir.VectorType(self.real, self.lanes)
        self.bits_vector = ir.VectorType(self.bits, self.lanes)
        self.mask = ir.VectorType(I1, self.lanes)
        self.mantissa = 23 if dtype == "float32" else 52

    @contextmanager
    def function(self, name: str, arguments: str, *, public: bool = False, gives: bool = False) -> Iterator[Code]:
        """Write a function; arguments with a star are pointers to reals, those with an at other pointers.

        One that `gives` an integer ends with `code.give`.
        """
        kinds = [PTR if word[0] in "*@" else I64 for word in arguments.split()]
        function = ir.Function(self.module, ir.FunctionType(I64 if gives else ir.VoidType(), kinds), name)
        function.attributes.add("nounwind")
        function.attributes.add("noinline")
        if not public:
            function.linkage = "internal"
        code = Code(self, function)
        for word, argument in zip(arguments.split(), function.args, strict=True):
            value = Pointer(code, argument, self.real) if word[0] == "*" else Value(code, argument)
            setattr(code, word.lstrip("*@"), value)
        yield code
        if not gives:
            code.b.ret_void()
        code.finish()

    def table(self, name: str, functions: Sequence[str]) -> None:
        """A constant table of functions, to choose from at run time."""
        kind = ir.ArrayType(PTR, len(functions))
        table = ir.GlobalVariable(self.module, kind, name)
        table.linkage, table.global_constant = "internal", True
        table.initializer = ir.Constant(kind, [self.module.get_global(f) for f in functions])


class Value:
    """A number or a vector of them, with Python's operators."""

    __slots__ = ("code", "ir")

    def __init__(self, code: Code, value: Any):
        self.code, self.ir = code, value

    def _both(self, other: Any, on_int: str, on_real: str | None, swap: bool = False) -> Value:
        other = self.code.like(self, other)
        kind = getattr(self.ir.type, "element", self.ir.type)
        name = on_int if isinstance(kind, ir.IntType) else on_real
        assert name is not None
        a, b = (other.ir, self.ir) if swap else (self.ir, other.ir)
        return Value(self.code, getattr(self.code.b, name)(a, b))

    def __add__(self, other: Any) -> Value:
        return self._both(other, "add", "fadd")

    def __sub__(self, other: Any) -> Value:
        return self._both(other, "sub", "fsub")

    def __rsub__(self, other: Any) -> Value:
        return self._both(other, "sub", "fsub", swap=True)

    def __mul__(self, other: Any) -> Value:
        return self._both(other, "mul", "fmul")

    def __truediv__(self, other: Any) -> Value:
        return self._both(other, "sdiv", "fdiv")

    def __rtruediv__(self, other: Any) -> Value:
        return self._both(other, "sdiv", "fdiv", swap=True)

    def __floordiv__(self, other: Any) -> Value:
        return self._both(other, "sdiv", None)

    def __mod__(self, other: Any) -> Value:
        return self._both(other, "srem", None)

    def __lshift__(self, other: Any) -> Value:
        return self._both(other, "shl", None)

    def __rshift__(self, other: Any) -> Value:
        return self._both(other, "ashr", None)

    def __and__(self, other: Any) -> Value:
        return self._both(other, "and_", None)

    def __or__(self, other: Any) -> Value:
        return self._both(other, "or_", None)

    def __xor__(self, other: Any) -> Value:
        return self._both(other, "xor", None)

    __radd__, __rmul__ = __add__, __mul__

    def _compare(self, how: str, other: Any) -> Value:
        other = self.code.like(self, other)
        kind = getattr(self.ir.type, "element", self.ir.type)
        compare = self.code.b.icmp_signed if isinstance(kind, ir.IntType) else self.code.b.fcmp_ordered
        return Value(self.code, compare(how, self.ir, other.ir))

    def __lt__(self, other: Any) -> Value:
        return self._compare("<", other)

    def __le__(self, other: Any) -> Value:
        return self._compare("<=", other)

    def __gt__(self, other: Any) -> Value:
        return self._compare(">", other)

    def __ge__(self, other: Any) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Any) -> Value:
        """self == other, which Python keeps for itself."""
        return self._compare("==", other)

    def min(self, other: Any) -> Value:
        """The smaller of two integers."""
        other = self.code.like(self, other)
        return self.code.select(self < other, self, other)

    def max(self, other: Any) -> Value:
        """The greater of two integers."""
        other = self.code.like(self, other)
        return self.code.select(self > other, self, other)


class Pointer(Value):
    """An address and what stands there; indices count elements."""

    __slots__ = ("element",)

    def __init__(self, code: Code, value: Any, element: Any):
        super().__init__(code, value)
        self.element = element

    def at(self, index: Any) -> Pointer:
        """The address of an element."""
        if isinstance(index, int) and index == 0:
            return self
        index = self.code.integer(index)
        return Pointer(self.code, self.code.b.gep(self.ir, [index.ir], source_etype=self.element), self.element)

    def load(self, index: Any = 0) -> Value:
        """One element."""
        return Value(self.code, self.code.b.load(self.at(index).ir, align=SIZE[self.element], typ=self.element))

    def store(self, value: Any, index: Any = 0) -> None:
        """Write one element."""
        if isinstance(value, int):
            value = Value(self.code, ir.Constant(self.element, value))
        self.code.b.store(value.ir, self.at(index).ir, align=SIZE[self.element])

    def prefetch(self) -> None:
        """Have this address fetched into the nearest cache; it need not be one that may be read."""
        kind = ir.FunctionType(ir.VoidType(), [PTR, I32, I32, I32])
        fetch = self.code.intrinsic("llvm.prefetch.p0", kind)
        self.code.b.call(fetch, [self.ir, I32(0), I32(3), I32(1)])  # to read, near, data

    def vector(self, index: Any = 0, mask: Value | None = None) -> Value:
        """A vector of elements; those outside the mask are not touched and read as zero."""
        unit, address = self.code.unit, self.at(index).ir
        if mask is None:
            return Value(self.code, self.code.b.load(address, align=unit.size, typ=unit.vector))
        kind = ir.FunctionType(unit.vector, [PTR, I32, unit.mask, unit.vector])
        load = self.code.intrinsic(f"llvm.masked.load.{self.code.suffix}.p0", kind)
        zero = ir.Constant(unit.vector, None)
        return Value(self.code, self.code.b.call(load, [address, I32(unit.size), mask.ir, zero]))

    def put(self, value: Value, index: Any = 0, mask: Value | None = None) -> None:
        """Write a vector of elements, only those inside the mask."""
        unit, address = self.code.unit, self.at(index).ir
        if mask is None:
            self.code.b.store(value.ir, address, align=unit.size)
            return
        kind = ir.FunctionType(ir.VoidType(), [unit.vector, PTR, I32, unit.mask])
        store = self.code.intrinsic(f"llvm.masked.store.{self.code.suffix}.p0", kind)
        self.code.b.call(store, [value.ir, address, I32(unit.size), mask.ir])


class Variable:
    """A value that changes; LLVM turns it into registers."""

    __slots__ = ("code", "kind", "place")

    def __init__(self, code: Code, value: Value):
        self.code, self.kind = code, value.ir.type
        self.place = code.reserve(self.kind)
        self.set(value)

    def get(self) -> Value:
        return Value(self.code, self.code.b.load(self.place, typ=self.kind))

    def set(self, value: Value) -> None:
        self.code.b.store(value.ir, self.place)


class Code:
    """One function while it is written. Its arguments are its attributes."""

    def __init__(self, unit: Unit, function: Any):
        self.unit, self.function = unit, function
        self.entry = function.append_basic_block("entry")
        self.start = function.append_basic_block("start")
        self.b = ir.IRBuilder(self.start)
        self.suffix = f"v{unit.lanes}f{8 * unit.size}"

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self.function.name} has no argument {name}")

    def finish(self) -> None:
        ir.IRBuilder(self.entry).branch(self.start)

    def reserve(self, kind: Any, count: int = 1) -> Any:
        """Room on the stack."""
        return ir.IRBuilder(self.entry).alloca(kind, size=I64(count))

    def room(self, vectors: int) -> Pointer:
        """Room for vectors on the stack, aligned."""
        place = self.reserve(self.unit.vector, vectors)
        place.align = 64
        return Pointer(self, place, self.unit.real)

    def room_for_integers(self, count: int) -> Pointer:
        """Room for integers on the stack."""
        return Pointer(self, self.reserve(I64, count), I64)

    # ---- values -----------------------------------------------------------------------------------------------------

    def like(self, value: Value, other: Any) -> Value:
        """A Python number as a constant of the same type as `value`."""
        if isinstance(other, Value):
            return other
        kind = value.ir.type
        if isinstance(kind, ir.VectorType):
            return Value(self, ir.Constant(kind, [other] * kind.count))
        return Value(self, ir.Constant(kind, other))

    def integer(self, value: Any) -> Value:
        """An integer."""
        return value if isinstance(value, Value) else Value(self, I64(value))

    def constant(self, value: float) -> Value:
        """A vector that holds one number in all its lanes."""
        return Value(self, ir.Constant(self.unit.vector, [value] * self.unit.lanes))

    def splat(self, value: Value) -> Value:
        """A vector that holds one number, known at run time, in all its lanes."""
        kind = ir.VectorType(value.ir.type, self.unit.lanes)
        nothing = ir.Constant(kind, ir.Undefined)
        one = self.b.insert_element(nothing, value.ir, I32(0))
        where = ir.Constant(ir.VectorType(I32, self.unit.lanes), None)
        return Value(self, self.b.shuffle_vector(one, nothing, where))

    def first_lanes(self, count: Value) -> Value:
        """The mask of the first `count` lanes."""
        lanes = ir.Constant(ir.VectorType(I64, self.unit.lanes), list(range(self.unit.lanes)))
        return Value(self, lanes) < self.splat(count)

    def select(self, condition: Value, a: Any, b: Any) -> Value:
        """a where the condition holds, else b."""
        a = a if isinstance(a, Value) else self.like(b, a)
        return Value(self, self.b.select(condition.ir, a.ir, self.like(a, b).ir))

    def select_pointer(self, condition: Value, a: Pointer, b: Pointer) -> Pointer:
        """As `select`."""
        return Pointer(self, self.b.select(condition.ir, a.ir, b.ir), a.element)

    def bits_of(self, value: Value) -> Value:
        """The bits of a vector of reals, as integers."""
        return Value(self, self.b.bitcast(value.ir, self.unit.bits_vector))

    def reals_of(self, value: Value) -> Value:
        """The vector of reals that has these bits."""
        return Value(self, self.b.bitcast(value.ir, self.unit.vector))

    def shuffle(self, a: Value, b: Value, where: Sequence[int]) -> Value:
        """Lanes of a and, counted on, of b."""
        lanes = ir.Constant(ir.VectorType(I32, len(where)), list(where))
        return Value(self, self.b.shuffle_vector(a.ir, b.ir, lanes))

    def intrinsic(self, name: str, kind: Any) -> Any:
        found = self.unit.module.globals.get(name)
        return found if found is not None else ir.Function(self.unit.module, kind, name)

    def lanewise(self, name: str, *values: Value) -> Value:
        """One of LLVM's functions that work on each lane."""
        kind = ir.FunctionType(self.unit.vector, [self.unit.vector] * len(values))
        return Value(self, self.b.call(self.intrinsic(f"llvm.{name}.{self.suffix}", kind), [v.ir for v in values]))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, rounded once."""
        return self.lanewise("fma", a, b, c)

    # ---- memory -----------------------------------------------------------------------------------------------------

    def reals_at(self, address: Value) -> Pointer:
        """An integer as the address of reals."""
        return Pointer(self, self.b.inttoptr(address.ir, PTR), self.unit.real)

    def nowhere(self) -> Value:
        """An address of nothing."""
        return Value(self, ir.Constant(PTR, None))

    def bytes_at(self, address: Value) -> Pointer:
        """An address, as a pointer or an integer, of bytes."""
        value = address.ir if address.ir.type == PTR else self.b.inttoptr(address.ir, PTR)
        return Pointer(self, value, I8)

    def ints_at(self, address: Value) -> Pointer:
        """An address, as a pointer or an integer, of integers."""
        value = address.ir if address.ir.type == PTR else self.b.inttoptr(address.ir, PTR)
        return Pointer(self, value, I64)

    # ---- control ----------------------------------------------------------------------------------------------------

    def variable(self, value: Any) -> Variable:
        return Variable(self, self.integer(value))

    @contextmanager
    def loop(self, start: Any, stop: Any, step: Any = 1) -> Iterator[Value]:
        """for i in range(start, stop, step)"""
        with self.loop_while(start, lambda i: i < stop) as index:
            i = index.get()
            yield i
            index.set(i + step)

    @contextmanager
    def loop_while(self, start: Any, condition: Callable[[Value], Value]) -> Iterator[Variable]:
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
        full = count >= self.unit.lanes
        self.either(full, lambda: write(None), lambda: write(self.first_lanes(count)))

    def call(self, name: str, *arguments: Any) -> Value:
        """Call another function of the unit; what it gives, if it gives anything."""
        return Value(self, self.b.call(self.unit.module.get_global(name), [self.integer(a).ir for a in arguments]))

    def give(self, value: Value) -> None:
        """The function's result."""
        self.b.ret(value.ir)

    def call_from(self, table: str, index: Value, *arguments: Any) -> None:
        """Call a function out of a table; all of them have the same arguments."""
        functions = self.unit.module.get_global(table)
        place = Pointer(self, functions, PTR).at(index)
        function = self.b.load(place.ir, align=8, typ=functions.initializer.constant[0].type)
        self.b.call(function, [self.integer(a).ir for a in arguments])
