"""PyTorch: what torch.save, torch.jit.save and torch.export.save write, and live modules. Reading imports no PyTorch.

`archive` and `unpickled` open a file without running anything, `tree` finds arrays and modules in it, `script` and
`exported` find the calls in programs, `modules` judges what is a GRU, `format` joins them.
"""

from .format import PyTorchFormat, pytorch

__all__ = ["PyTorchFormat", "pytorch"]
