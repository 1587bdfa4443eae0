"""The pointwise part of a step as one kernel each way: which kernel, how it is launched, and when it declines."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .source import LANES, THREADS, kernel_name

if TYPE_CHECKING:
    from gru_xp.kernels import Call, Level

__all__ = ["Arrays", "CudaGates", "Launch"]

DTYPES = ("float16", "bfloat16", "float32", "float64")
ALIGNED = 16  # bytes of the widest load
MOST_ROWS_OF_BLOCKS = 65535  # of a grid, in y


class Launch(NamedTuple):
    """One launch: all arguments are 64 bits, addresses first."""

    dtype: str
    kernel: str
    grid: tuple[int, int]
    block: tuple[int, int]
    arguments: tuple[int, ...]


class Arrays(Protocol):
    """What the kernels need of an array library."""

    #: what `Backend.device_name` begins with where its arrays lie
    place: str

    def unavailable(self) -> str | None:
        """Why nothing can be compiled or launched here, or None."""
        ...

    def dtype_name(self, array: Any) -> str: ...

    def compact(self, array: Any) -> Any:
        """The array itself, or a copy where it is not contiguous in C's order."""
        ...

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        """A new array of the same dtype, on the same device, in C's order and aligned to 16 bytes."""
        ...

    def address(self, array: Any) -> int: ...

    def launch(self, launch: Launch, like: Any) -> None:
        """Launch on the device of `like` and there on the library's current stream; does not wait."""
        ...


class CudaGates:
    """Fused gates for arrays in CUDA memory.

    Callers with 16-bit arrays are served too: the layer computes gates in float32, and widens and rounds around them.
    """

    name = "cuda-gates"
    level: Level = "gates"

    def __init__(self, arrays: Arrays):
        self.arrays = arrays

    def refuses(self, call: Call, /) -> str | None:
        """Why not, or None."""
        device = call.backend.device_name(call.device)
        if device.partition(":")[0] != self.arrays.place:
            return f"works in CUDA memory, not on {device}"
        if call.dtype not in DTYPES:
            return f"computes for {', '.join(DTYPES)}, not for {call.dtype}"
        if not call.spec.reset_after:
            return "with reset_after=False the gates have a product in their middle"
        if not call.spec.standard_gates:
            return "has only sigmoid and tanh, and no clip"
        if call.recording:
            return "the arrays are recorded or traced"
        return self.arrays.unavailable()

    def inference(self, gi: Any, gh: Any, h: Any, /) -> Any:
        """(..., 3H), (..., 3H), (..., H) -> h' (..., H)."""
        h1 = self.arrays.empty(h.shape, h)
        self._launch("inference", h.shape, (gi, gh, h), (h1,))
        return h1

    def forward(self, gi: Any, gh: Any, h: Any, /) -> tuple[Any, ...]:
        """(..., 3H), (..., 3H), (..., H) -> h', r, z, n, u, each (..., H); the last four share one allocation."""
        h1, gates = self.arrays.empty(h.shape, h), self.arrays.empty((4, *h.shape), h)
        self._launch("forward", h.shape, (gi, gh, h), (h1, gates))
        r, z, n, u = gates
        return h1, r, z, n, u

    def backward(self, dh1: Any, h: Any, r: Any, z: Any, n: Any, u: Any, /) -> tuple[Any, ...]:
        """Six times (..., H) -> dgi, dgh (..., 3H), and the part of dh that does not go through W_hh (..., H)."""
        wide = (*h.shape[:-1], 3 * h.shape[-1])
        out = self.arrays.empty(wide, h), self.arrays.empty(wide, h), self.arrays.empty(h.shape, h)
        self._launch("backward", h.shape, (dh1, h, r, z, n, u), out)
        return out

    def _launch(self, function: str, shape: Sequence[int], given: tuple[Any, ...], made: tuple[Any, ...]) -> None:
        *leading, H = shape
        rows = prod(leading)
        if rows * H == 0:
            return
        arrays, like = self.arrays, made[0]
        given = tuple(map(arrays.compact, given))  # held until after the launch, which the stream's order then protects
        addresses = tuple(map(arrays.address, (*given, *made)))
        dtype = arrays.dtype_name(like)
        lanes = LANES[dtype]
        if H % lanes or any(address % ALIGNED for address in addresses):
            lanes = 1
        grid, block = geometry(rows, H // lanes)
        launch = Launch(dtype, kernel_name(function, dtype, lanes), grid, block, (*addresses, rows, H))
        arrays.launch(launch, like)


def geometry(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block (x, y) for so many rows and columns; what the grid does not cover, its threads do in turns."""
    width = min(THREADS, 1 << (columns - 1).bit_length())
    height = THREADS // width
    grid = (-(-columns // width), min(-(-rows // height), MOST_ROWS_OF_BLOCKS))
    return grid, (width, height)
