"""Kernels over CUDA memory, for CuPy's arrays and PyTorch's tensors: their memory is the same memory.

`gates.cu` is CUDA C++, compiled by NVRTC at the first call on a device (`driver.py`, over NVIDIA's cuda-bindings) and
launched on the library's current stream. `CudaGates` is the kernel door's object; `Arrays` says what it needs of a
library. Importing this package imports no array library and nothing of CUDA.

It has never been run on a GPU: docs/cuda.md says what was tested, and how.
"""

from __future__ import annotations

from .gates import Arrays, CudaGates, Launch

__all__ = ["Arrays", "CudaGates", "Launch"]
