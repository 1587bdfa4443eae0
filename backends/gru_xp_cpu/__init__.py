"""Fused GRU kernels over host memory: for NumPy arrays and for PyTorch's tensors on the CPU.

Machine code is written through llvmlite for the processor at hand at the first call, and kept on disk. Importing this
package compiles nothing and loads neither llvmlite nor a compiler.
"""

from .layer import AdaptedLayer, CpuLayer

__all__ = ["AdaptedLayer", "CpuLayer", "numpy_layer"]

numpy_layer = CpuLayer()
