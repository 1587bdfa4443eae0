"""Tensors in host memory seen as NumPy arrays, and memory of PyTorch's for what is computed with NumPy.

`Tensor.numpy` marks a storage for good: it can never be resized or freed again (pytorch#119233), neither by its owner
nor by FSDP. So addresses are taken without it, each time anew, and only where the storage has the bytes.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import torch

from gru_xp.errors import StructureError
from gru_xp_cpu import BITS

__all__ = ["empty", "seen", "shown", "unmoved"]

DTYPES: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype("f4"),
    torch.float64: np.dtype("f8"),
    torch.float16: np.dtype("f2"),
    torch.bfloat16: BITS,
    torch.bool: np.dtype(bool),
}
UINT16 = np.dtype("u2")
TENSORS = {dtype: tensor for tensor, dtype in DTYPES.items()}


class Memory(ctypes.c_char * sys.maxsize):  # type: ignore[misc] # as long as may be: the array says how much is used
    """What an array looks at. It keeps the tensor."""

    __slots__ = ("size", "tensor")
    tensor: torch.Tensor
    size: int  # of the storage, in bytes


class New(Memory):
    """Of a tensor that nobody else has yet."""

    __slots__ = ()


def seen(tensor: Any) -> Any:
    """A tensor as the NumPy array of the same memory, which lives as long, unless the storage is resized."""
    if tensor is None:
        return None
    try:
        dtype = DTYPES.get(tensor.dtype)
        if dtype is None or tensor.is_neg() or not tensor.is_cpu or not tensor.is_contiguous():
            return _strided(tensor, dtype)
        size = tensor.untyped_storage().nbytes()
        if size < dtype.itemsize * tensor.storage_offset() + tensor.nbytes:
            raise _freed(tensor)
        memory = Memory.from_address(tensor.data_ptr())
    except AttributeError:
        raise StructureError(f"expected a tensor, got {type(tensor).__name__}") from None
    memory.tensor, memory.size = tensor, size
    return np.ndarray(tuple(tensor.shape), dtype, memory)  # which takes twice as long for a torch.Size


def unmoved(array: Any, tensor: torch.Tensor) -> bool:
    """Whether `array`, which `seen` gave, still is the tensor's memory; no, if it is a copy or has strides."""
    memory = array.base
    same = type(memory) is Memory and ctypes.addressof(memory) == tensor.data_ptr()
    return same and memory.size == tensor.untyped_storage().nbytes()


def _strided(tensor: Any, dtype: Any) -> Any:
    """As `seen`, where the numbers do not lie in a row; what is lazily negated, or of another dtype, is copied."""
    if dtype is None or tensor.is_neg() or not tensor.is_cpu:
        return tensor.detach().clone().resolve_neg().numpy(force=True)
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    if tensor.numel() and tensor.untyped_storage().nbytes() < dtype.itemsize * (tensor.storage_offset() + reach):
        raise _freed(tensor)
    memory = Memory.from_address(tensor.data_ptr())
    memory.tensor, memory.size = tensor, -1  # never `unmoved`
    return np.ndarray(tensor.shape, dtype, memory, 0, [dtype.itemsize * step for step in tensor.stride()])


def _freed(tensor: Any) -> StructureError:
    return StructureError(
        f"a tensor {tuple(tensor.shape)}: expected its numbers in its storage, which has "
        f"{tensor.untyped_storage().nbytes()} bytes; somebody has freed or resized it (as FSDP frees the weights of a "
        f"module that is not computing)"
    )


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """As `numpy.empty`, over a tensor that `shown` gives back."""
    tensor = torch.empty(shape, dtype=TENSORS[dtype])
    memory = New.from_address(tensor.data_ptr())
    memory.tensor = tensor
    return np.ndarray(shape, dtype, memory)


def shown(array: Any) -> Any:
    """A NumPy array as the tensor of the same memory; if it is one of `empty`, that tensor, which may be resized."""
    if array is None:
        return None
    memory = array.base
    if type(memory) is np.ndarray and array.flags.c_contiguous:
        memory = memory.base
    if type(memory) is New and memory.tensor.nbytes == array.nbytes:
        tensor = memory.tensor
        return tensor if tensor.shape == array.shape else tensor.resize_(array.shape)
    if array.dtype is BITS:
        return torch.from_numpy(array.view(UINT16)).view(torch.bfloat16)
    return torch.from_numpy(array)
