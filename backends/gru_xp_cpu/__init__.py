"""Fused GRU kernels over host memory: for NumPy arrays, and for PyTorch's tensors and JAX's arrays on the CPU.

Machine code is written through llvmlite for the processor at hand at the first call, and kept on disk. Importing this
package compiles nothing and loads neither llvmlite nor a compiler.

`numpy_layer` is the kernel for NumPy; `calling.xla` serves XLA, and so JAX; `calling.stream.Stream` is inference step
by step; `warmup` fills the cache on disk. README.md here is the map of it all.
"""

from __future__ import annotations

from .calling.dtypes import BITS
from .calling.layer import CpuLayer, warmup
from .calling.packed import PackedCell
from .threads.owner import Owner

__all__ = ["BITS", "CpuLayer", "Owner", "PackedCell", "numpy_layer", "reset_for_tests", "warmup"]

numpy_layer = CpuLayer()


def reset_for_tests() -> None:
    """Forget which processor, plans and kernels this process has settled on, so that a test can choose others."""
    from .calling.kernel import forget
    from .emit.target import current

    current.cache_clear()
    forget()
