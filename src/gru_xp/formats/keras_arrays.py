"""The arrays of one cell in the layouts that Keras has had, as this package's parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gru_xp.errors import ConversionError
from gru_xp.formats.layouts import from_keras
from gru_xp.params import CellParams
from gru_xp.stored import FLOATS, Tensor

__all__ = ["KERAS_1", "cell_of", "is_cudnn", "looks_like_one", "read_cell"]

KERAS_1 = 9  # arrays: W, U and b of the gates z, r and h, one after the other


def cell_of(
    tensors: Sequence[Tensor], use_bias: bool, reset_after: bool, *, cudnn: bool = False
) -> tuple[CellParams, str]:
    """A cell's parameters and their dtype; a `ConversionError` where its description says something else."""
    if not tensors:
        raise ConversionError("it has no arrays: it was never built")
    w, told, dtype = read_cell(tensors)
    if cudnn != is_cudnn(tensors):
        raise ConversionError("its description says CuDNNGRU where the shape of its bias does not, or the reverse")
    if (w.b_ih is not None) != use_bias or told not in (None, reset_after):
        raise ConversionError("its description and the shape of its bias do not agree")
    return w, dtype


def read_cell(tensors: Sequence[Tensor]) -> tuple[CellParams, bool | None, str]:
    """Parameters, whether the bias says `reset_after` (None without biases), and the dtype.

    Shapes first, so that what is no GRU is not read.
    """
    found = {tensor.dtype for tensor in tensors}
    if len(found) != 1 or not found <= {*FLOATS}:
        raise ConversionError(f"expected arrays of one of {', '.join(FLOATS)}, got {', '.join(sorted(found))}")
    if len(tensors) not in (2, 3, KERAS_1) or any(len(tensor.shape) > 2 for tensor in tensors):
        raise ConversionError(f"expected two or three arrays, got {[tensor.shape for tensor in tensors][:5]}")
    arrays = [tensor.read() for tensor in tensors]
    if len(arrays) == KERAS_1:
        try:
            arrays = [np.concatenate(arrays[part::3], axis=-1) for part in range(3)]
        except ValueError:
            raise ConversionError("expected Keras 1's nine arrays: W, U, b of z, r and h") from None
    elif is_cudnn(tensors):
        arrays = _from_cudnn(*arrays)
    return *from_keras(arrays), found.pop()


def looks_like_one(shapes: Sequence[tuple[int, ...]]) -> bool:
    """kernel (I, 3H) and recurrent_kernel (H, 3H), or an LSTM's, which is then refused; or Keras 1's nine."""
    if any(len(shape) != 2 for shape in shapes[:2]):
        return False
    kernel, recurrent = shapes[:2]
    H = recurrent[0]
    if H == 0 or kernel[1] != recurrent[1]:
        return False
    return recurrent[1] == H if len(shapes) == KERAS_1 else recurrent[1] in (3 * H, 4 * H)


def is_cudnn(tensors: Sequence[Tensor]) -> bool:
    """Whether the bias is that of a CuDNNGRU, (6H,), whose kernels then are in cuDNN's order."""
    return len(tensors) == 3 and len(tensors[1].shape) == 2 and tensors[2].shape == (6 * tensors[1].shape[0],)


def _from_cudnn(kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> list[np.ndarray]:
    """A CuDNNGRU's arrays as those of GRU(reset_after=True).

    In each gate's columns lie the bytes of cuDNN's own matrix, (H, I) or (H, H) row by row, whatever the shape says.
    """
    I, H = len(kernel), len(recurrent)
    if kernel.shape != (I, 3 * H) or recurrent.shape != (H, 3 * H):
        raise ConversionError(f"expected a CuDNNGRU's kernels, got {kernel.shape} and {recurrent.shape}")
    gates = [np.ascontiguousarray(gate).reshape(H, I).T for gate in np.split(kernel, 3, axis=1)]
    return [np.hstack(gates), np.hstack([gate.T for gate in np.split(recurrent, 3, axis=1)]), bias.reshape(2, 3 * H)]
