"""Call a kernel's custom call as XLA does, with buffers of the caller's."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from gru_xp_cpu.calling.xla import call, handler

#: XLA's numbers of dtypes; what is not among them gets one that no kernel takes
DTYPES = {"bool": 1, "int8": 2, "int32": 4, "int64": 5, "float16": 10, "float32": 11, "float64": 12, "bfloat16": 16}


def words(*values: int) -> Any:
    return (ctypes.c_int64 * len(values))(*values)


def called_as_by_xla(
    kind: Any,
    sizes: tuple[int, int, int, int],
    own: tuple[int, ...],
    given: Mapping[str, Any],
    made: Mapping[str, Any],
    dtype: Any = None,
    numbers: Any = None,
) -> str:
    """Call with a frame of pointers, see `custom_call`; what the error says, "" without one.

    `given` are the operands and `made` the results, contiguous arrays; `dtype` is that of x, and `numbers` are those of
    such a call, if nothing else is said.
    """
    dtype = dtype or given["x"].dtype.name
    if numbers is None:
        numbers = call(kind, dtype, sizes, own, [*given, *made], recompute=kind == "backward" and "r" not in given)
    _, address = handler(kind, dtype)
    arrays = *given.values(), *made.values()
    shapes = [words(*a.shape) for a in arrays]
    buffers = [
        words(48, 0, DTYPES.get(a.dtype.name, 0), a.ctypes.data, a.ndim, ctypes.addressof(shape))
        for a, shape in zip(arrays, shapes, strict=True)
    ]
    pointers = [ctypes.addressof(buffer) for buffer in buffers]
    operands, results = words(*pointers[: len(given)]), words(*pointers[len(given) :])
    attribute = words(DTYPES[numbers.dtype.name], numbers.size, numbers.ctypes.data)
    attributes, types = words(ctypes.addressof(attribute)), words(1)
    said: list[str] = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64))
    def make_error(arguments: Any) -> int:
        said.append(ctypes.string_at(arguments[2]).decode())
        return 1

    interface = words(0, 0, 0, 0, 3 << 32, 0, ctypes.cast(make_error, ctypes.c_void_p).value or 0)
    frame = words(*[0] * 24)
    frame[2] = ctypes.addressof(interface)
    frame[7], frame[9] = len(given), ctypes.addressof(operands)
    frame[12], frame[14] = len(made), ctypes.addressof(results)
    frame[17], frame[18], frame[20] = 1, ctypes.addressof(types), ctypes.addressof(attributes)
    error = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)(ctypes.addressof(frame))
    assert bool(error) == bool(said)
    return said[0] if said else ""
