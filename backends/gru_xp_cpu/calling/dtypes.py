"""The dtypes of NumPy's arrays that kernels take: native code knows each by the address of one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gru_xp_cpu.emit.target import DType

__all__ = ["BITS", "DTYPES", "dtype_of", "gates_dtype", "name_of"]

DTYPES: tuple[DType, ...] = "float32", "float64", "float16", "bfloat16"
#: NumPy has no bfloat16: PyTorch's is given as its bits, by a dtype that no array of integers has; JAX's is ml_dtypes'
BITS = np.dtype([("bfloat16", np.uint16)])
_KNOWN: dict[Any, tuple[Any, DType]] = {BITS: (BITS, "bfloat16")}


def dtype_of(dtype: Any) -> Any:
    """The one object for all dtypes that are equal to this one; KeyError if no kernel takes such arrays."""
    return _known(dtype)[0]


def name_of(dtype: Any) -> DType:
    """What kernels for arrays of NumPy's `dtype` are called by; errors as for `dtype_of`."""
    return _known(dtype)[1]


def gates_dtype(dtype: DType) -> Any:
    """NumPy's dtype of what is computed over arrays of a dtype, and of the gates that are saved."""
    return np.dtype("f8" if dtype == "float64" else "f4")


def _known(dtype: Any) -> tuple[Any, DType]:
    found = _KNOWN.get(dtype)
    if found is None:
        if dtype.name not in DTYPES or not dtype.isnative:
            raise KeyError(dtype)
        found = _KNOWN[dtype] = np.dtype(dtype.name), dtype.name
    return found
