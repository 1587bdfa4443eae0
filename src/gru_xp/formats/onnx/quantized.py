"""Quantised constants: q = round(x / s) + z and x = (q - z) s, for a tensor, along an axis or in blocks.

ONNX's QuantizeLinear and DequantizeLinear (https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html), and those of
com.microsoft, which mean the same. NumPy rounds halves to even, as they do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["DOMAINS", "INTEGERS", "QUANTISING", "quantised"]

QUANTISING = ("DequantizeLinear", "QuantizeLinear")
DOMAINS = ("", "ai.onnx", "com.microsoft")
INTEGERS = ("int4", "uint4", "int8", "uint8", "int16", "uint16", "int32")


def quantised(op: str, arrays: list[Any], options: dict[str, int]) -> np.ndarray:
    """The result of one node; a `ValueError` where its inputs do not fit together.

    Args:
        op: one of `QUANTISING`.
        arrays: x, scale and perhaps the zero point.
        options: the node's attributes, of which `axis` and `block_size` matter.
    """
    if options.keys() - {"axis", "block_size", "saturate"}:
        raise ValueError(f"attributes {', '.join(sorted(options))[:100]}")
    x, scale = arrays[:2]
    zero = arrays[2] if len(arrays) > 2 else None
    if zero is not None and zero.shape != scale.shape:
        raise ValueError(f"a zero point of shape {zero.shape} and a scale of shape {scale.shape}")
    if (x.dtype.name in INTEGERS) != (op == "DequantizeLinear"):
        raise ValueError(f"numbers of type {x.dtype}")
    wide = _spread(scale, x.shape, options).astype("f8")
    shift = 0.0 if zero is None else _spread(zero, x.shape, options).astype("f8")
    if op == "DequantizeLinear":
        return ((x.astype("f8") - shift) * wide).astype(scale.dtype)  # float64 holds the product of such numbers
    dtype = np.dtype("uint8") if zero is None else zero.dtype
    least, most = LIMITS[dtype.name]
    return np.clip(np.rint(x / wide.astype(x.dtype)).astype("f8") + shift, least, most).astype(dtype)


LIMITS = {"int4": (-8, 7), "uint4": (0, 15)} | {
    name: (np.iinfo(name).min, np.iinfo(name).max) for name in INTEGERS if "int4" not in name
}


def _spread(a: np.ndarray, shape: tuple[int, ...], options: dict[str, int]) -> np.ndarray:
    """One number for each of x's, by broadcasting."""
    if a.size == 1 and a.ndim < 2:
        return a.reshape(())
    axis, block = options.get("axis", 1), options.get("block_size", 0)
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"axis {axis} of shape {shape}")
    axis %= len(shape)
    if block:
        repeats = -(-shape[axis] // block)
        if a.shape != (*shape[:axis], repeats, *shape[axis + 1 :]):
            raise ValueError(f"blocks of {block} along axis {axis} of shape {shape}, and {a.shape}")
        return np.repeat(a, block, axis)[(slice(None),) * axis + (slice(shape[axis]),)]
    if a.shape != (shape[axis],):
        raise ValueError(f"one number for each of {shape} along axis {axis}, and {a.shape}")
    return a.reshape([-1 if place == axis else 1 for place in range(len(shape))])
