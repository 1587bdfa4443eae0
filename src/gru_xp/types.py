"""The types of what the public functions take and return."""

from .functional import Explanation
from .params import ArrayLike, CellGrads, GRUGrads, LayerTape, Params, ParamsLike, Tape
from .prepared import PreparedParams

__all__ = [
    "ArrayLike",
    "CellGrads",
    "Explanation",
    "GRUGrads",
    "LayerTape",
    "Params",
    "ParamsLike",
    "PreparedParams",
    "Tape",
]
