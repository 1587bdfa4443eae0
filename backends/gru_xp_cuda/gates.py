"""The pointwise part of a step as one kernel each way: which kernel, how it is launched, and when it declines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .source import LANES, THREADS, kernel_name

if TYPE_CHECKING:
    from gru_xp.interfaces import Call, Level

__all__ = ["Arrays", "CudaGates", "Launch"]

DTYPES = ("float16", "bfloat16", "float32", "float64")
ALIGNED = 16  # bytes of the widest load
MOST_ROWS_OF_BLOCKS = 65535  # of a grid, in y


class Launch(NamedTuple):
    """Which kernel, on what grid. Its arguments are all of 64 bits: addresses, then the sizes rows and H."""

    dtype: str
    kernel: str
    grid: tuple[int, int]
    block: tuple[int, int]


class Arrays(Protocol):
    """What the kernels need of an array library."""

    #: what `Backend.device_name` begins with where its arrays lie
    place: str

    def unavailable(self, device: Any) -> str | None:
        """Why nothing can be compiled for the library's device or launched there, or None."""
        ...

    def dtype_name(self, array: Any) -> str: ...

    def compact(self, array: Any) -> Any:
        """The array itself, or a copy where it is not contiguous in C's order."""
        ...

    def empty(self, shape: tuple[int, ...], like: Any) -> Any:
        """A new array of the same dtype, on the same device, in C's order and aligned to 16 bytes."""
        ...

    def address(self, array: Any) -> int: ...

    def launch(self, launch: Launch, arguments: tuple[int, ...], like: Any) -> None:
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
        return self.arrays.unavailable(call.device)

    def inference(self, gi: Any, gh: Any, h: Any, /) -> Any:
        """(..., 3H), (..., 3H), (..., H) -> h' (..., H)."""
        h1 = self.arrays.empty(h.shape, h)
        self._run("inference", h.shape, (gi, gh, h), (h1,))
        return h1

    def forward(self, gi: Any, gh: Any, h: Any, /) -> tuple[Any, ...]:
        """(..., 3H), (..., 3H), (..., H) -> h', r, z, n, u, each (..., H)."""
        shape, empty = h.shape, self.arrays.empty
        made = empty(shape, h), empty(shape, h), empty(shape, h), empty(shape, h), empty(shape, h)
        self._run("forward", shape, (gi, gh, h), made)
        return made

    def backward(self, dh1: Any, h: Any, r: Any, z: Any, n: Any, u: Any, /) -> tuple[Any, ...]:
        """Six times (..., H) -> dgi, dgh (..., 3H), and the part of dh that does not go through W_hh (..., H)."""
        shape, empty = h.shape, self.arrays.empty
        wide = (*shape[:-1], 3 * shape[-1])
        made = empty(wide, h), empty(wide, h), empty(shape, h)
        self._run("backward", shape, (dh1, h, r, z, n, u), made)
        return made

    def _run(self, function: str, shape: Sequence[int], given: tuple[Any, ...], made: tuple[Any, ...]) -> None:
        """Arrays in the order of the kernel's arguments. This is all Python there is in a step, so it is kept short."""
        arrays, like = self.arrays, made[0]
        *leading, H = shape
        rows = prod(leading)
        if rows * H == 0:
            return
        given = tuple(map(arrays.compact, given))  # held until after the launch, which the stream's order then protects
        addresses = tuple(map(arrays.address, (*given, *made)))
        bits = 0
        for address in addresses:
            bits |= address
        launch = launch_for(function, arrays.dtype_name(like), rows, H, bits % ALIGNED == 0)
        arrays.launch(launch, (*addresses, rows, H), like)


@lru_cache(maxsize=1024)
def launch_for(function: str, dtype: str, rows: int, H: int, aligned: bool) -> Launch:
    """What to launch for so many rows of H units in compact arrays, all of them `aligned` to the widest load or not."""
    lanes = LANES[dtype] if aligned and H % LANES[dtype] == 0 else 1
    return Launch(dtype, kernel_name(function, dtype, lanes), *geometry(rows, H // lanes))


def geometry(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Grid and block (x, y) for so many rows and columns; what the grid does not cover, its threads do in turns."""
    width = min(THREADS, 1 << (columns - 1).bit_length())
    height = THREADS // width
    grid = (-(-columns // width), min(-(-rows // height), MOST_ROWS_OF_BLOCKS))
    return grid, (width, height)
