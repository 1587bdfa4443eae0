"""Fused GRU kernels over host memory: for NumPy arrays, and for PyTorch's tensors and JAX's arrays on the CPU.

Machine code is written through llvmlite for the processor at hand at the first call, and kept on disk. Importing this
package compiles nothing and loads neither llvmlite nor a compiler.

`numpy_layer` is the kernel for NumPy; `AdaptedLayer` makes one for another library with arrays in host memory;
`native.call` and `native.handler` serve callers in native code, as XLA is for JAX; `warmup` fills the cache on disk;
`stream.Stream` is inference step by step.
"""

from __future__ import annotations

from .layer import AdaptedLayer, CpuLayer, Owner, PackedCell

__all__ = ["AdaptedLayer", "CpuLayer", "Owner", "PackedCell", "numpy_layer", "warmup"]

numpy_layer = CpuLayer()


def warmup(dtypes: tuple[str, ...] = ("float32", "float64")) -> str:
    """Compile what has not been compiled on this machine; where it is kept, in words."""
    from .compiler import cache_folder, machine
    from .layer import unusable
    from .target import current

    reason = unusable()
    if reason is not None:
        return f"no fused CPU kernels here: {reason}"
    for dtype in dtypes:
        for kind in ("forward", "backward"):
            machine(current(), kind, dtype)
    machine(current(), "threads", "float32")
    folder = cache_folder()
    return f"fused CPU kernels for vectors of {current().bits} bits: {folder or 'in memory only'}"
