"""gru_xp: one gated recurrent unit (GRU) for every array library.

Pass NumPy, PyTorch, CuPy, JAX or any other array-API arrays and get the same kind back.

    y, h_n       = gru(x, params)                  differentiable where the arrays' library is
    y, h_n       = gru_inference(x, params)        saves and records nothing
    y, h_n, tape = gru_forward(x, params)
    grads        = gru_backward(tape, dy, dh_n)    exact and explicit: .x .h0 .params

`GRU` owns parameters, streams and saves. `explain` says who would compute a call. Errors are in `gru_xp.errors`, the
types of results in `gru_xp.types`, Arraymancer's arrays in `gru_xp.arraymancer`, helpers for training in
`gru_xp.training`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import errors, types
from .activations import Activation
from .discovery import available
from .errors import GRUError
from .functional import (
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
from .parameters import add, map_params, to, weights
from .params import CellParams, GRUSpec
from .selection import use_backend
from .threads import num_threads

if TYPE_CHECKING:
    from .account import quantization_account
    from .loading import from_framework, load
    from .module import GRU
    from .quantized import fake_quantize, quantize

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "Activation",
    "CellParams",
    "GRUError",
    "GRUSpec",
    "add",
    "available",
    "errors",
    "explain",
    "fake_quantize",
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
    "map_params",
    "num_threads",
    "prepare",
    "quantization_account",
    "quantize",
    "to",
    "types",
    "use_backend",
    "weights",
]

#: names whose modules a call of the functions above does not need: imported when somebody first asks for them
LATER = {
    "GRU": "module",
    "fake_quantize": "quantized",
    "from_framework": "loading",
    "load": "loading",
    "quantization_account": "account",
    "quantize": "quantized",
}


def __getattr__(name: str) -> Any:
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f".{LATER[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER})
