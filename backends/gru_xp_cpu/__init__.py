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
    """Compile what has not been compiled on this machine; where it is kept, in words. An `OSError` if it cannot be."""
    from gru_xp import cache

    from .compiler import is_kept, machine
    from .layer import unusable
    from .target import current

    reason = unusable()
    if reason is not None:
        return f"no fused CPU kernels here: {reason}"
    folder, units = cache.folder("cpu"), [(kind, dtype) for dtype in dtypes for kind in ("forward", "backward")]
    fault = None if folder is None else cache.fault("cpu")
    for kind, dtype in (*units, ("threads", "float32")):
        if fault is None:
            machine(current(), kind, dtype)
            fault = None if folder is None or is_kept(current(), kind, dtype) else "the disk may be full"
        if fault is not None:
            raise OSError(
                f"{folder}: the fused CPU kernels cannot be kept there ({fault}); "
                f"set GRU_XP_CACHE_DIR to a folder that is yours alone"
            )
    return f"fused CPU kernels for vectors of {current().bits} bits: {folder or 'in memory only'}"
