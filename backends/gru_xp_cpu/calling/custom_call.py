"""The kernels as custom calls of XLA, the compiler behind JAX: native code alone, without Python and its lock.

XLA calls a function with a frame of pointers, `XLA_FFI_CallFrame` of its C interface. The numbers below are positions
in it, in integers of 64 bits (xla/ffi/api/c_api.h, version 0.3).

What is known when a program is traced comes as one attribute, an array of integers: those of HEADER, the kernel's
fields, and for each of the kernel's arrays the number of its buffer, operands first, or -1. It contains no addresses:
another process may run what was compiled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llvmlite import ir

from gru_xp_cpu.emit.code import Code, Integer, Integers, Value
from gru_xp_cpu.emit.function import function
from gru_xp_cpu.emit.module import I8, I32, I64, PTR
from gru_xp_cpu.passes.fields import ARRAYS, CALL, HEADER, PLACES, SIZES, Kind
from gru_xp_cpu.passes.kernels import KERNELS
from gru_xp_cpu.threads.launching import offered
from gru_xp_cpu.threads.shared import SYNC, call_at, change, write

from .buffers import ARRAY, ATTRIBUTES, DATA, OPERANDS, RESULTS, follow, half, unfit, where

__all__ = ["connect", "custom_call"]

# of a frame: the first extension, and the interface
EXTENSION, INTERFACE = 1, 2
# of an extension: its type, and what it is to fill in where it asks for the version
KIND, METADATA, VERSION = 1, 3, 1
# of the interface: its version, and the function that makes an error
INTERFACE_VERSION, MAKE_ERROR = 4, 6
#: errors of XLA's: their codes, and what they say
ERRORS = {
    "invalid_argument": (
        3,
        b"gru_xp: the buffers of this custom call are not those of its sizes; gru_xp_jax calls it\0",
    ),
    "resource_exhausted": (8, b"gru_xp: no memory for what a kernel needs beside its results\0"),
}

# the register with the modes of floating-point numbers, and those of its bits that flush
MXCSR = ("stmxcsr", "ldmxcsr")
FLUSH_X86, FLUSH_ARM = 0x8040, 1 << 24

#: pieces of scratch memory that are kept from call to call, the largest of them in bytes, and of each in a line of its
#: own: whether it is in use, where it is and how large. What XLA gives is new, and to touch it costs more than a kernel
PIECES, KEPT, WIDTH = 2, 64 << 20, 8
TAKEN, PLACE, SIZE = range(3)


@function
def connect(c: Code, sync: Integers) -> None:
    """Say once where the workers are that kernels share."""
    _integers(c, "workers", 1).store(sync.integer())


@function
def custom_call(c: Code, frame: Integers, *, kind: Kind) -> Value:
    """Run a kernel; the address of XLA's error, or 0."""
    asks, error = c.variable(0), c.variable(0)
    with c.when(frame.load(EXTENSION).equals(0) ^ True):
        asks.set(c.select(half(follow(frame, EXTENSION).load(KIND)).equals(1), c.integer(1), 0))

    def run() -> None:
        sync, numbers = follow(_integers(c, "workers", 1)), follow(follow(follow(frame, ATTRIBUTES[1])), ARRAY)
        pieces, size = _integers(c, "pieces", PIECES * WIDTH), numbers.load(HEADER.index("scratch")) + 63
        with _subnormal_numbers(c):
            found = _with_scratch(c, sync, pieces, size, lambda at: _run(c, kind, frame, numbers, sync, at))
        with c.when(found.equals(0)):
            error.set(_error(c, frame, "resource_exhausted"))

    def checked() -> None:
        c.either(unfit(c, frame, kind=kind).equals(0), run, lambda: error.set(_error(c, frame, "invalid_argument")))

    c.either(asks.get() > 0, lambda: _give_version(c, frame), checked)
    return error.get()


@contextmanager
def _subnormal_numbers(c: Code) -> Iterator[None]:
    """Keep numbers below the smallest normal one, which XLA flushes to zero on its threads, as on all others."""
    if c.module.target.x86:
        place = c.reserve(I32)
        read, write_back = (
            c.intrinsic(f"llvm.x86.sse.{name}", ir.FunctionType(ir.VoidType(), [PTR])) for name in MXCSR
        )
        c.b.call(read, [place])
        before = c.b.load(place, typ=I32)
        c.b.store(c.b.and_(before, I32(~FLUSH_X86)), place)
        c.b.call(write_back, [place])
        yield
        c.b.store(before, place)
        c.b.call(write_back, [place])
    else:
        read = c.intrinsic("llvm.aarch64.get.fpcr", ir.FunctionType(I64, []))
        write_back = c.intrinsic("llvm.aarch64.set.fpcr", ir.FunctionType(ir.VoidType(), [I64]))
        before = c.b.call(read, [])
        c.b.call(write_back, [c.b.and_(before, I64(~FLUSH_ARM))])
        yield
        c.b.call(write_back, [before])


def _integers(c: Code, name: str, count: int) -> Integers:
    """Integers that last as long as the code, zeros at first."""
    place = c.module.ir.globals.get(name)
    if place is None:
        kind = ir.ArrayType(I64, count)
        place = ir.GlobalVariable(c.module.ir, kind, name)
        place.linkage, place.initializer, place.align = "internal", ir.Constant(kind, None), 64
    return c.pointer(Integers, Value(c, c.b.ptrtoint(place, I64)))


def _give_version(c: Code, frame: Integers) -> None:
    """Give XLA's own version if it is 0.x, where nothing that is read here changes; else 0.3, which it may refuse."""
    metadata = follow(follow(frame, EXTENSION), METADATA)
    own = follow(frame, INTERFACE).load(INTERFACE_VERSION)
    version = c.select(half(own).equals(0), own, 3 << 32)
    metadata_fields: tuple[Integer, ...] = (24, 0, version, 0)  # its own size, no extension, no traits
    for i, value in enumerate(metadata_fields):
        metadata.store(value, VERSION + i)


def _error(c: Code, frame: Integers, name: str) -> Value:
    """One of XLA's errors."""
    code, message = ERRORS[name]
    text = ir.GlobalVariable(c.module.ir, ir.ArrayType(I8, len(message)), name)
    text.linkage, text.global_constant = "internal", True
    text.initializer = ir.Constant(text.value_type, bytearray(message))
    arguments = c.stack_integers(4)
    for i, value in enumerate((28, 0, c.b.ptrtoint(text, I64), code)):
        arguments.store(value if isinstance(value, int) else Value(c, value), i)
    make = follow(frame, INTERFACE).load(MAKE_ERROR)
    return Value(c, c.b.ptrtoint(call_at(c, make, PTR, [arguments.ir]), I64))


def _with_scratch(c: Code, sync: Integers, pieces: Integers, size: Value, body: Callable[[Value], None]) -> Value:
    """Write body(address) with scratch memory; the address, 0 if there was none."""
    mine, place = c.variable(-1), c.variable(0)

    def allocated() -> Value:
        found = call_at(c, sync.load(SYNC["allocate"]), PTR, [size.ir])
        return Value(c, c.b.ptrtoint(found, I64))

    def free(address: Value) -> None:
        call_at(c, sync.load(SYNC["free"]), ir.VoidType(), [c.b.inttoptr(address.ir, PTR)])

    with c.loop(0, PIECES) as i, c.when(mine.get() < 0), c.when(change(pieces, i * WIDTH + TAKEN, 0, 1).equals(0)):
        mine.set(i)

    def kept() -> None:
        piece = pieces.at(mine.get() * WIDTH)
        with c.when(piece.load(SIZE) < size):
            free(piece.load(PLACE))
            piece.store(allocated(), PLACE)
            piece.store(c.select(piece.load(PLACE).equals(0), 0, size), SIZE)
        place.set(piece.load(PLACE))

    def give_back() -> None:
        piece = pieces.at(mine.get() * WIDTH)
        with c.when(piece.load(SIZE) > KEPT):
            free(piece.load(PLACE))
            piece.store(0, PLACE)
            piece.store(0, SIZE)
        write(piece, TAKEN, c.integer(0))

    c.either(mine.get() < 0, lambda: place.set(allocated()), kept)
    with c.when(place.get().equals(0) ^ True):
        body(place.get())
    c.either(mine.get() < 0, lambda: free(place.get()), give_back)
    return place.get()


def _run(c: Code, kind: Kind, frame: Integers, numbers: Integers, sync: Integers, scratch: Value) -> None:
    names = (*SIZES, *CALL[kind], *PLACES[kind])
    count, arrays = len(names), len(ARRAYS[kind])
    operands, results = (follow(frame, pointers) for _, pointers in (OPERANDS, RESULTS))
    given = frame.load(OPERANDS[0])

    # instead of Python's tuple of NumPy's arrays: of each the address of the data
    items, stand_ins = c.stack_integers(arrays), c.stack_integers(arrays + 1)
    nothing = stand_ins.at(arrays).integer()
    with c.loop(0, arrays) as i:
        number = numbers.load(i + where(kind))
        items.store(nothing, i)
        with c.when(number >= 0):
            here, buffer = stand_ins.at(i), c.select_pointer(number < given, operands, results.at(-1 * given))
            here.store(c.pointer(Integers, buffer.load(number)).load(DATA), 0)
            items.store(here.integer(), i)
    fields = c.stack_integers(count)
    first = count - len(PLACES[kind])
    with c.loop(0, first) as i:
        fields.store(numbers.load(i + len(HEADER)), i)
    with c.loop(first, count) as i:
        fields.store(numbers.load(i + len(HEADER)) + ((scratch + 63) & -64), i)
    for name, value in (("none", nothing), ("arrays", items.integer())):
        fields.store(value, names.index(name))
    threads = numbers.load(HEADER.index("threads"))
    c.either(
        threads.equals(1),
        lambda: KERNELS[kind](c, fields, c.integer(0), c.integer(1), c.null(Integers)),
        lambda: offered(c, sync, kind, fields, threads),
    )
