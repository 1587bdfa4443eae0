"""gru_xp: one gated recurrent unit (GRU) for every array library.

Pass NumPy, PyTorch, CuPy, JAX or any other array-API arrays and get the same kind back.

    y, h_n       = gru(x, params)                  front door, differentiable where the arrays' library is
    y, h_n       = gru_inference(x, params)        saves and records nothing
    y, h_n, tape = gru_forward(x, params)
    grads        = gru_backward(tape, dy, dh_n)    exact and explicit: .x .h0 .params

`GRU` owns parameters, streams and saves. `explain` says who would compute a call.
"""

from .activations import Activation
from .discovery import available
from .errors import (
    BackendError,
    ConversionError,
    ConversionWarning,
    DTypeError,
    FileFormatError,
    GRUError,
    KernelError,
    MixedArraysError,
    NotDifferentiableError,
    RangeError,
    ShapeError,
    StructureError,
    VariableError,
)
from .functional import (
    Explanation,
    explain,
    gru,
    gru_backward,
    gru_cell,
    gru_cell_backward,
    gru_cell_forward,
    gru_cell_inference,
    gru_forward,
    gru_inference,
    prepare,
)
from .loading import from_framework, load
from .module import GRU
from .params import CellGrads, CellParams, GRUGrads, GRUSpec, LayerTape, Params, Tape
from .prepared import PreparedParams
from .selection import selection, use_backend
from .threads import num_threads

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "Activation",
    "BackendError",
    "CellGrads",
    "CellParams",
    "ConversionError",
    "ConversionWarning",
    "DTypeError",
    "Explanation",
    "FileFormatError",
    "GRUError",
    "GRUGrads",
    "GRUSpec",
    "KernelError",
    "LayerTape",
    "MixedArraysError",
    "NotDifferentiableError",
    "Params",
    "PreparedParams",
    "RangeError",
    "ShapeError",
    "StructureError",
    "Tape",
    "VariableError",
    "available",
    "explain",
    "from_framework",
    "gru",
    "gru_backward",
    "gru_cell",
    "gru_cell_backward",
    "gru_cell_forward",
    "gru_cell_inference",
    "gru_forward",
    "gru_inference",
    "load",
    "num_threads",
    "prepare",
    "selection",
    "use_backend",
]
